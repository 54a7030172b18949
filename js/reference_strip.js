// Strip on 'Encode Reference Images': the connected pictures, each with a slider for its weight.
// All it changes is the text of the node's own widget, which is saved and sent as before.

import { connectedReferences, thumbnailAddress } from "./reference_sources.js";
import { carriedOver, formatWeights, parseWeights } from "./reference_weights.js";
import { earlierOutput, watchNode } from "./watch_node.js";
import {
  addDomWidget,
  addStyles,
  button,
  chain,
  complaint,
  element,
  keepWheel,
} from "./widgets.js";

const WEIGHTS = "reference_weights";
const HEIGHT = 144;
const SCALE = 2; // a slider's largest weight, unless more is written
// For all strips, because an undo makes the nodes anew.
const thumbnails = new Map(); // source in a workflow -> names of the small pictures of its last run
const told = new Set(); // outputs whose sources are known
const STYLES = `
.mip-strip { user-select: none; }
.mip-strip-cells { display: flex; gap: 6px; margin: 0; padding: 2px; list-style: none;
  overflow-x: auto; overflow-y: hidden; scrollbar-width: thin; }
.mip-strip-cells:empty::after { content: attr(data-empty); margin: auto; color: var(--mip-soft); }
.mip-strip-cells li { flex: 0 0 68px; display: flex; flex-direction: column; gap: 2px;
  min-height: 0; }
.mip-strip-picture { position: relative; flex: 1 1 0; min-height: 0; display: grid;
  place-items: center; border-radius: 6px; overflow: hidden; background: var(--mip-fill);
  color: var(--mip-soft); font-size: 18px; }
.mip-strip-picture img { position: absolute; inset: 0; width: 100%; height: 100%;
  object-fit: cover; }
.mip-strip-picture img.mip-broken { visibility: hidden; }
.mip-strip input { width: 100%; height: 16px; margin: 0; accent-color: var(--mip-accent); }
.mip-strip output { text-align: center; line-height: 14px; }
.mip-strip .mip-problem { color: var(--mip-bad); }
.mip-strip button:disabled { visibility: hidden; }
`;

export function attach(node, app) {
  const text = node.widgets?.find((widget) => widget.name === WEIGHTS);
  if (!text || !node.addDOMWidget) return;
  addStyles("strip", STYLES);
  const strip = new Strip(node, app, text);
  addDomWidget(node, app, "reference_strip", strip.root, HEIGHT);
  const soon = watchNode(node, strip.root, (regular) => strip.look(regular));
  chain(text, "callback", soon);
  chain(node, "onConnectionsChange", soon);
  chain(node, "onExecuted", (output) => {
    strip.learn(output, true);
    soon();
  });
}

class Strip {
  constructor(node, app, text) {
    Object.assign(this, { node, app, text });
    this.references = []; // that are shown
    this.known = new Map(); // source -> its weights
    this.settled = null; // references that the weights' text was last in step with
    this.seen = null;
    this.shown = null;
    this.status = element("span", { class: "mip-grow mip-cut mip-soft", role: "status" });
    this.reset = button("Reset", "Let all references weigh the same", () => {
      this.cells.querySelector("input")?.focus(); // the button disappears
      this.write([]);
      this.rememberForUndo();
    });
    this.cells = element("ol", {
      class: "mip-strip-cells mip-grow",
      "data-empty": "Connect pictures to see them here.",
    });
    const bar = element("div", { class: "mip-row" }, this.status, this.reset);
    const about = { class: "mip mip-strip", role: "group", "aria-label": "Reference weights" };
    this.root = element("div", about, bar, this.cells);
    keepWheel(this.cells);
  }

  get total() {
    return count(this.references);
  }

  // Compare with the graph, and show what has changed; `regular` looks also settle the weights.
  look(regular) {
    if (this.app.configuringGraph) return;
    this.learn(earlierOutput(this.node, this.app), false);
    this.references = connectedReferences(this.node).map((each) => this.withPictures(each));
    if (regular) this.settle();
    this.show();
  }

  // Remember the small pictures of a run, which may know more of a source than its name. Those that
  // ComfyUI has kept are believed once: later on, other sources may be connected.
  learn(output, isNew) {
    const slots = output?.references?.[0];
    if (!slots) return;
    const run = `${this.node.id} ${JSON.stringify(slots)}`;
    if (!isNew && told.has(run)) return;
    told.add(run);
    this.shown = null; // what could not be loaded may be there now
    for (const reference of connectedReferences(this.node)) {
      const found = slots.find(({ slot }) => slot === reference.slot);
      if (found) thumbnails.set(this.placeOf(reference), found.files);
    }
  }

  placeOf({ key, file }) {
    return `${this.node.graph.id} ${key} ${file ?? ""}`;
  }

  withPictures(reference) {
    const files = thumbnails.get(this.placeOf(reference));
    const known = files?.map(thumbnailAddress);
    const pictures = known ?? [reference.file]; // undefined: not known before it runs
    return { ...reference, pictures, count: pictures.length, certain: Boolean(known) };
  }

  // Once the inputs are the same for two looks, let the weights follow the references.
  settle() {
    const seen = this.references.map(({ key }) => key).join(" ");
    const changed = this.settled?.keys !== seen;
    if (seen !== this.seen) {
      this.seen = seen;
      return;
    }
    const before = this.settled?.references;
    this.settled = { keys: seen, references: this.references };
    const weights = parseWeights(this.text.value);
    if (!changed || !before || this.isLinked() || !weights?.length) return;
    if (weights.length === count(before))
      this.write(carriedOver(weights, before, this.references, this.known));
  }

  isLinked() {
    return this.node.inputs?.some((input) => input.widget?.name === WEIGHTS && input.link != null);
  }

  write(weights) {
    const text = formatWeights(weights);
    if (text !== this.text.value) {
      this.text.value = text;
      this.text.callback?.(text, this.app.canvas, this.node);
      this.node.graph?.setDirtyCanvas?.(true, true);
    }
    this.show();
  }

  // From the slider of picture `number`; weights of pictures that are not known yet stay.
  slide(number, value) {
    const weights = parseWeights(this.text.value) ?? [];
    const certain = this.references.every((each) => each.certain || each.file);
    const length = certain ? this.total : Math.max(this.total, weights.length);
    const whole = Array.from({ length }, (_, i) => weights[i] ?? 1);
    whole[number] = value;
    this.write(whole);
  }

  show() {
    const linked = this.isLinked();
    const pictures = this.references.flatMap(({ pictures, file, label }) =>
      pictures.map((source, i) => ({ source, spare: i === 0 ? file : undefined, label })),
    );
    const state = JSON.stringify([pictures, this.text.value, linked]);
    if (state === this.shown) return;
    this.shown = state;
    const weights = parseWeights(this.text.value);
    const shown = pictures.map((_, i) => weights?.[i] ?? 1);
    const sum = shown.reduce((a, b) => a + b, 0);
    while (this.cells.children.length > pictures.length) this.cells.lastChild.remove();
    pictures.forEach((picture, i) => {
      const cell = this.cells.children[i] ?? this.cells.appendChild(this.makeCell(i));
      showCell(cell, i, picture, { weight: shown[i], share: shown[i] / sum, linked });
    });
    this.reset.disabled = linked || String(this.text.value ?? "").trim() === "";
    this.tell(weights, linked);
  }

  makeCell(number) {
    const slide = (event) => this.slide(number, event.target.valueAsNumber);
    const input = element("input", { type: "range", step: "0.05", min: "0.05", max: SCALE });
    input.addEventListener("input", slide);
    input.addEventListener("change", () => this.rememberForUndo()); // when it is let go
    input.addEventListener("blur", () => { input.max = Math.max(SCALE, input.valueAsNumber); });
    const picture = element("div", { class: "mip-strip-picture" }, `${number + 1}`);
    const output = element("output", { class: "mip-number" });
    return element("li", {}, picture, input, output);
  }

  rememberForUndo() {
    this.app.canvas?.emitBeforeChange?.();
    this.app.canvas?.emitAfterChange?.();
  }

  tell(weights, linked) {
    const { text, bad } = statusOf(weights, this.total, linked);
    this.status.textContent = this.status.title = text;
    this.status.classList.toggle("mip-problem", Boolean(bad));
  }
}

function showCell(cell, number, { source, spare, label }, { weight, share, linked }) {
  const [picture, input, output] = cell.children;
  const name = `Reference ${number + 1}${label ? `: ${label}` : ""}`;
  showPicture(picture, source, spare, name);
  cell.title = `${name}\n${Math.round(100 * share)} % of the whole`;
  input.disabled = linked;
  // While it is used, its scale only grows: else each way down would leave no way back.
  const scale = input.matches(":focus, :active") ? Number(input.max) : SCALE;
  input.max = Math.max(scale, weight);
  if (input.valueAsNumber !== weight) input.value = weight;
  input.setAttribute("aria-label", `Weight of reference ${number + 1}${label && `, ${label}`}`);
  input.setAttribute("aria-valuetext", `${weight}, ${Math.round(100 * share)} % of the whole`);
  output.value = linked ? "" : String(Number(weight.toPrecision(3)));
}

// `spare` is shown where there is no `source` any more: small pictures are gone once ComfyUI starts
// again. Without it, the number below is seen.
function showPicture(place, source, spare, alt) {
  let image = place.querySelector("img");
  if (!source) image?.remove();
  if (!source) return;
  if (!image) {
    image = element("img", { draggable: "false", loading: "lazy" });
    image.addEventListener("error", () => {
      const { spare } = image.dataset;
      if (spare && image.getAttribute("src") !== spare) image.src = spare;
      else image.classList.add("mip-broken");
    });
    image.addEventListener("load", () => image.classList.remove("mip-broken"));
    place.append(image);
  }
  const isBroken = image.classList.contains("mip-broken");
  if (image.dataset.source !== source || isBroken) image.src = image.dataset.source = source;
  image.dataset.spare = spare ?? "";
  image.alt = alt;
}

function statusOf(weights, total, linked) {
  if (linked) return { text: "The weights come from the connected text." };
  if (!weights) return complaint("Weights must be positive numbers: 1, 0.5");
  if (weights.length && weights.length !== total) {
    const pictures = total === 1 ? "picture" : "pictures";
    return complaint(`${weights.length} weights for ${total} ${pictures}`);
  }
  const alike = weights.every((weight) => weight === weights[0]);
  const pictures = total === 1 ? "1 reference" : `${total} references`;
  if (total < 2) return { text: total ? pictures : "" };
  return { text: `${pictures}, ${alike ? "weighted alike" : "weighted"}` };
}

function count(references) {
  return references.reduce((sum, reference) => sum + reference.count, 0);
}
