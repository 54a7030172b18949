// Viewer on the evaluation nodes: values as a table, warnings, and figures that enlarge.

import { api } from "../../scripts/api.js";
import { reportTable } from "./report_table.js";
import { earlierOutput, watchNode } from "./watch_node.js";
import {
  addDomWidget,
  addStyles,
  chain,
  element,
  enlarge,
  keepWheel,
  showNoOtherPictures,
} from "./widgets.js";

const HEIGHT = 300;
const STYLES = `
.mip-report { contain: size; }
.mip-report [hidden] { display: none !important; }
.mip-report .hint { margin: auto; color: var(--mip-soft); }
.mip-report .values { overflow: auto; scrollbar-width: thin; user-select: text; }
.mip-report table { width: 100%; border-collapse: collapse; font-size: 11px; }
.mip-report th { position: sticky; top: 0; padding: 0; text-align: left; font-weight: 600;
  background: var(--comfy-menu-bg, #171718); box-shadow: inset 0 -1px var(--mip-line); }
.mip-report th button { width: 100%; padding: 3px 4px; border: 0; text-align: inherit;
  background: none; white-space: nowrap; }
.mip-report th button::after { content: "↕"; padding-left: 2px; font-size: 9px;
  color: var(--mip-soft); }
.mip-report th[aria-sort=ascending] button::after { content: "▲"; color: inherit; }
.mip-report th[aria-sort=descending] button::after { content: "▼"; color: inherit; }
.mip-report td { padding: 3px 4px; border-bottom: 1px solid var(--mip-line);
  white-space: nowrap; }
.mip-report td.mip-soft { max-width: 110px; overflow: hidden; text-overflow: ellipsis; }
.mip-report tbody tr:hover { background: var(--mip-fill); }
.mip-report .mip-right { text-align: right; }
.mip-report details { flex: none; max-height: 36%; overflow: auto; scrollbar-width: thin; }
.mip-report summary { color: var(--mip-warm); cursor: pointer; }
.mip-report ul { margin: 4px 0 0; padding-left: 18px; list-style: disc; }
.mip-report .figures { display: flex; gap: 6px; flex: none; height: 92px; padding: 2px;
  overflow-x: auto; overflow-y: hidden; scrollbar-width: thin; }
.mip-report .figures button { display: flex; flex: none; flex-direction: column; gap: 2px;
  width: 112px; height: 100%; padding: 3px; line-height: 14px; cursor: zoom-in; }
.mip-report .figures img { flex: 1 1 0; width: 100%; min-height: 0; object-fit: contain;
  border-radius: 3px; }
.mip-report .values[hidden] ~ .figures,
.mip-report .values[hidden] ~ .figures button:only-child { flex: 1 1 0; }
`;

export function attach(node, app) {
  if (!node.addDOMWidget) return;
  addStyles("report", STYLES);
  const viewer = new Viewer();
  addDomWidget(node, app, "report_viewer", viewer.root, HEIGHT);
  showNoOtherPictures(node);
  chain(node, "onExecuted", (output) => viewer.show(output));
  watchNode(node, viewer.root, () => {
    const earlier = viewer.shown ? undefined : earlierOutput(node, app);
    if (earlier?.figures) viewer.show(earlier); // the workflow was opened again
  });
}

class Viewer {
  constructor() {
    this.shown = false;
    this.sorting = { column: "", order: "" };
    this.hint = element("p", { class: "hint" }, "Results appear here after a run.");
    const region = { role: "region", "aria-label": "Values", tabindex: "0" };
    this.values = element("div", { class: "values mip-grow", hidden: "", ...region });
    this.warnings = element("details", { hidden: "" });
    this.figures = element("div", { class: "figures", hidden: "" });
    const about = { class: "mip mip-report", role: "group", "aria-label": "Report" };
    const parts = [this.hint, this.values, this.warnings, this.figures];
    this.root = element("div", about, ...parts);
    [this.values, this.warnings, this.figures].forEach(keepWheel);
  }

  // Output of the node as nodes/evaluation/report_view.py describes it.
  show(output) {
    this.shown = true;
    const rows = output.report?.flat() ?? [];
    const warnings = output.warnings ?? [];
    const pictures = (output.images ?? []).map((image, i) => ({
      src: api.apiURL(`/view?${new URLSearchParams(image)}`),
      title: (output.figures?.[i] ?? `figure ${i + 1}`).replaceAll("_", " "),
    }));
    this.hint.hidden = rows.length > 0 || pictures.length > 0;
    fill(this.values, rows.length ? [reportTable(rows, this.sorting)] : []);
    fill(this.warnings, warnings.length ? warningParts(warnings) : []);
    fill(this.figures, pictures.map((_, i) => figureButton(pictures, i)));
  }
}

function fill(place, parts) {
  place.replaceChildren(...parts);
  place.hidden = parts.length === 0;
}

function warningParts(warnings) {
  const title = warnings.length === 1 ? "1 warning" : `${warnings.length} warnings`;
  const items = warnings.map((text) => element("li", {}, text));
  return [element("summary", {}, title), element("ul", {}, ...items)];
}

function figureButton(pictures, number) {
  const { src, title } = pictures[number];
  const image = element("img", { src, alt: "", draggable: "false" });
  const caption = element("span", { class: "mip-cut" }, title);
  const about = { type: "button", title: `Enlarge ${title}`, "aria-label": `Enlarge ${title}` };
  const made = element("button", about, image, caption);
  made.addEventListener("click", () => enlarge(pictures, number));
  return made;
}
