// What the Train node shows of a run: status, chart with legend, previews, and buttons to keep it.

import { CHART_STYLES, SERIES, chartMarkup, stepAt, valueAt } from "./line_chart.js";
import { smoothed } from "./training_data.js";
import { isRunning, speedText, statusText } from "./training_status.js";
import { saveChart } from "./chart_file.js";
import { addStyles, button, download, element, enlarge, shortNumber, throttled } from "./widgets.js";

const STYLES = `${CHART_STYLES}
.mip-training .bar { height: 4px; border-radius: 2px; background: var(--mip-line); }
.mip-training .bar > div { width: 0; height: 100%; border-radius: 2px;
  background: var(--mip-accent); }
.mip-training .bad { color: var(--mip-bad); white-space: normal; }
.mip-training .plot { position: relative; border-radius: 6px; }
.mip-training .mip-chart { position: absolute; inset: 0; width: 100%; height: 100%;
  border-radius: 6px; touch-action: none; }
.mip-training .hint { position: absolute; inset: 0; display: flex; align-items: center;
  justify-content: center; padding: 12px; text-align: center; pointer-events: none; }
.mip-training .legend { display: grid; grid-template-columns: repeat(3, 1fr); gap: 4px; }
.mip-training .legend button { display: flex; align-items: center; gap: 5px; padding: 1px 6px;
  white-space: nowrap; }
.mip-training .legend button[aria-pressed=false] { color: var(--mip-soft);
  text-decoration: line-through; }
.mip-training .legend button[aria-pressed=false] i { opacity: 0.4; }
.mip-training .legend .at { align-self: center; text-align: center; }
.mip-training .legend i { flex: none; width: 8px; height: 8px; background: var(--colour); }
.mip-training .legend .circle { border-radius: 50%; }
.mip-training .legend .triangle { clip-path: polygon(50% 0, 100% 100%, 0 100%); }
.mip-training .legend .line { height: 3px; border-radius: 2px; }
.mip-training .sheet { position: relative; height: 128px; border-radius: 6px;
  background: var(--mip-fill); }
.mip-training .sheet > button { width: 100%; height: 100%; padding: 0; border: 0;
  background: none; cursor: zoom-in; }
.mip-training .sheet img { display: block; width: 100%; height: 100%; object-fit: contain; }
.mip-training [hidden] { display: none; }
`;
const REDRAW = 250; // ms between two drawings

export class TrainingView {
  constructor(data) {
    addStyles("training", STYLES);
    this.data = data;
    this.hidden = new Set();
    this.cursor = null; // step that the legend tells of; null: the newest
    this.preview = null; // step of the preview that is shown; null: the newest
    this.update = throttled(() => this.draw(), REDRAW);
    const parts = [this.makeHead(), this.makePlot(), this.makeLegend(), this.makePreviews()];
    const about = { class: "mip mip-training", role: "group", "aria-label": "Training" };
    this.root = element("div", about, ...parts.flat());
    this.sizes = new ResizeObserver(this.update);
  }

  open() {
    this.sizes.observe(this.plot);
  }

  close() {
    this.sizes.disconnect();
  }

  makeHead() {
    this.status = element("div", { class: "mip-grow mip-cut mip-number" });
    this.pictureButton = button("PNG", "Save the chart as a picture", () => this.savePicture());
    this.tableButton = button("CSV", "Save all numbers as a table", () => this.saveTable());
    const row = element("div", { class: "mip-row" }, this.status);
    this.stopButton = button("■", "Stop, and keep what was learned", () => this.stop());
    row.append(this.stopButton, this.pictureButton, this.tableButton);
    this.done = element("div");
    this.bar = element("div", { class: "bar", role: "progressbar", "aria-label": "Steps" }, this.done);
    return [row, this.bar];
  }

  makePlot() {
    this.chart = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.chart.classList.add("mip-chart");
    for (const [name, value] of [["tabindex", 0], ["role", "slider"], ["aria-valuemin", 0]])
      this.chart.setAttribute(name, value);
    this.chart.setAttribute("aria-label", "Training curves; arrow keys read them step by step");
    this.chart.addEventListener("pointermove", (event) => this.point(event));
    this.chart.addEventListener("pointerleave", () => this.setCursor(null));
    this.chart.addEventListener("blur", () => this.setCursor(null));
    this.chart.addEventListener("keydown", (event) => this.moveCursor(event));
    this.hint = element("div", { class: "hint mip-soft" }, "Curves appear here with the first steps");
    this.plot = element("div", { class: "mip-grow plot" }, this.chart, this.hint);
    return [this.plot];
  }

  makeLegend() {
    this.entries = {};
    const entries = Object.entries(SERIES).map(([name, { label, short, colour, mark }]) => {
      const sign = element("i", { class: mark ?? "line", style: `--colour: var(${colour})` });
      const value = element("span", { class: "mip-number mip-soft" });
      const toggle = button("", `Show or hide: ${label}`, () => this.toggle(name));
      toggle.removeAttribute("aria-label");
      toggle.append(sign, element("span", { class: "mip-cut" }, short ?? label), value);
      this.entries[name] = { toggle, value };
      return toggle;
    });
    this.at = element("div", { class: "mip-soft mip-number mip-cut at" });
    return [element("div", { class: "legend" }, ...entries, this.at)];
  }

  makePreviews() {
    this.image = element("img", { draggable: "false" });
    this.large = button("", "Enlarge the preview", () => this.enlargePreview());
    this.large.append(this.image);
    this.noPreview = element("div", { class: "hint mip-soft" });
    this.noPreview.textContent = "Held-out identities are drawn here with each validation";
    this.back = button("‹", "Earlier preview", () => this.turnPreview(-1));
    this.forth = button("›", "Later preview", () => this.turnPreview(1));
    this.previewLabel = element("div", { class: "mip-grow mip-cut mip-soft mip-number" });
    const row = element("div", { class: "mip-row" }, this.previewLabel, this.back, this.forth);
    return [row, element("div", { class: "sheet" }, this.large, this.noPreview)];
  }

  draw() {
    const { data } = this;
    const { text, share, bad } = statusText(data);
    this.status.textContent = text;
    this.status.title = [text, speedText(data)].filter(Boolean).join(" · ");
    this.status.classList.toggle("bad", Boolean(bad));
    this.done.style.width = `${100 * share}%`;
    this.bar.setAttribute("aria-valuenow", Math.round(100 * share));
    this.stopButton.disabled = !isRunning(data);
    this.pictureButton.disabled = this.tableButton.disabled = data.step === 0;
    this.hint.hidden = data.step > 0;
    this.drawCurves();
    this.drawPreview();
  }

  drawCurves() {
    const { clientWidth: width, clientHeight: height } = this.plot;
    if (!width || !height) return;
    const { data, hidden, cursor } = this;
    this.chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.chart.innerHTML = data.step ? chartMarkup({ width, height, data, hidden, cursor }) : "";
    const step = cursor ?? data.step;
    const curves = { ...data, loss: smoothed(data.loss) };
    const told = Object.entries(this.entries).map(([name, { toggle, value }]) => {
      toggle.setAttribute("aria-pressed", !hidden.has(name));
      value.textContent = shortNumber(valueAt(curves[name], step));
      return `${SERIES[name].label} ${value.textContent}`;
    });
    this.at.textContent = data.step ? `step ${step}` : "";
    this.chart.setAttribute("aria-valuemax", data.step);
    this.chart.setAttribute("aria-valuenow", step);
    this.chart.setAttribute("aria-valuetext", `step ${step}: ${told.join(", ")}`);
  }

  drawPreview() {
    const { previews } = this.data;
    const step = this.previewStep();
    const at = previews.indexOf(step);
    this.large.hidden = !previews.length;
    this.noPreview.hidden = previews.length > 0;
    this.back.disabled = at <= 0;
    this.forth.disabled = at >= previews.length - 1;
    this.previewLabel.textContent = previews.length ? `Preview at step ${step}` : "Preview";
    if (!previews.length) return;
    const address = this.data.previewAddress(step);
    if (this.image.getAttribute("src") !== address) this.image.src = address;
    this.image.alt = `Held-out identities drawn at step ${step}`;
  }

  toggle(name) {
    if (!this.hidden.delete(name)) this.hidden.add(name);
    this.drawCurves();
  }

  point({ clientX }) {
    const { left, width } = this.chart.getBoundingClientRect(); // as the canvas is zoomed
    const inside = ((clientX - left) / width) * this.plot.clientWidth;
    this.setCursor(stepAt(inside, this.plot.clientWidth, this.data));
  }

  moveCursor({ key, shiftKey }) {
    const { step: last } = this.data;
    const by = shiftKey ? 1 : Math.max(1, Math.round(last / 50));
    const from = this.cursor ?? last;
    const to = { ArrowLeft: from - by, ArrowDown: from - by, ArrowRight: from + by }[key];
    const other = { ArrowUp: from + by, Home: 0, End: last, Escape: null }[key];
    const step = to ?? other;
    if (step !== undefined) this.setCursor(step === null ? null : Math.min(Math.max(step, 0), last));
  }

  setCursor(step) {
    if (this.cursor === step) return;
    this.cursor = step;
    this.update();
  }

  previewStep() {
    const { previews } = this.data;
    return previews.includes(this.preview) ? this.preview : previews.at(-1);
  }

  turnPreview(by) {
    const { previews } = this.data;
    const at = previews.indexOf(this.previewStep()) + by;
    this.preview = at >= previews.length - 1 ? null : previews[at]; // the last one stays the newest
    this.drawPreview();
  }

  enlargePreview() {
    const { data } = this;
    const pictures = data.previews.map((step) => {
      return { src: data.previewAddress(step), title: `${data.run}, step ${step}` };
    });
    enlarge(pictures, data.previews.indexOf(this.previewStep()));
  }

  // ComfyUI's own button does not know the run any more once the page was loaded again.
  async stop() {
    this.stopButton.disabled = true;
    if (!(await this.data.stop())) this.update(); // it may be tried again
  }

  savePicture() {
    const { text } = statusText(this.data);
    saveChart(this.root, this.data, this.hidden, text);
  }

  saveTable() {
    download(`${this.data.run}-training.csv`, this.data.tableAddress());
  }
}
