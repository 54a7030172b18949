// Curves of a training run -> SVG; on the node and, larger, in the exported picture.

import { smoothed } from "./training_data.js";
import { shortNumber } from "./widgets.js";

const LEFT = 46;
const RIGHT = 14;
const TOP = 8;
const BOTTOM = 18;
const STRIP = 34; // height of the learning rate's own chart
const GAP = 12;

// How each curve looks; the validation's also differ in their marks.
export const SERIES = {
  loss: { label: "loss", colour: "--mip-accent" },
  matched: { label: "matched", colour: "--mip-good", mark: "circle" },
  none: { label: "none", colour: "--mip-warm", mark: "square" },
  shuffled: { label: "shuffled", colour: "--mip-odd", mark: "triangle" },
  learning_rate: { label: "learning rate", short: "LR", colour: "--mip-soft" },
};

// Styles of the SVG itself, so that an exported picture has them too.
export const CHART_STYLES = `
.mip-chart text { font: 10px Inter, Arial, sans-serif; fill: var(--mip-soft); }
.mip-chart .grid { stroke: var(--mip-line); stroke-width: 1; }
.mip-chart .cursor { stroke: var(--mip-soft); stroke-dasharray: 3 3; }
.mip-chart .curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.mip-chart .raw { fill: none; stroke-width: 1; opacity: 0.35; }
`;

// Content of an SVG of this size. `hidden` is a set of names, `cursor` a step or null.
export function chartMarkup({ width, height, data, hidden, cursor }) {
  const main = { left: LEFT, right: width - RIGHT, top: TOP };
  const withRate = !hidden.has("learning_rate");
  main.bottom = height - BOTTOM - (withRate ? STRIP + GAP : 0);
  const curves = visibleCurves(data, hidden);
  const steps = [0, Math.max(data.step, 1)];
  const x = scale(steps, main.left, main.right);
  const range = valueRange(curves);
  const y = scale(range, main.bottom, main.top);
  const parts = [grid(main, range, y), stepLabels(steps, x, height)];
  parts.push(clipped(main, curves.map((curve) => curveMarkup(curve, x, y)).join("")));
  if (withRate) parts.push(rateStrip(data.learning_rate, x, main, height - BOTTOM));
  if (cursor !== null) {
    const at = x(cursor).toFixed(1);
    parts.push(`<line class="cursor" x1="${at}" x2="${at}" y1="${TOP}" y2="${height - BOTTOM}"/>`);
  }
  return parts.join("");
}

// Step below a place from 0 (left) to `width` (right) in a chart of that width.
export function stepAt(place, width, data) {
  const share = (place - LEFT) / (width - LEFT - RIGHT);
  return Math.round(Math.min(Math.max(share, 0), 1) * Math.max(data.step, 1));
}

// Newest value of a curve at or before a step, null where there is none.
export function valueAt(points, step) {
  let low = 0;
  let high = points.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] <= step) low = middle + 1;
    else high = middle;
  }
  return low ? points[low - 1][1] : null;
}

function visibleCurves(data, hidden) {
  const shown = Object.keys(SERIES).filter((name) => name !== "learning_rate" && !hidden.has(name));
  const curves = shown.map((name) => ({ ...SERIES[name], points: data[name] }));
  if (shown[0] === "loss") {
    const { colour, points } = curves[0];
    curves[0] = { colour, points: smoothed(points) };
    curves.unshift({ colour, points, raw: true });
  }
  return curves.filter((curve) => curve.points.length);
}

// From the 2nd to the 98th percentile of the raw loss, and everything of the other curves.
function valueRange(curves) {
  const values = curves.flatMap(({ points, raw }) => {
    const all = points.map((point) => point[1]);
    if (!raw) return all;
    const cut = Math.floor(0.02 * all.length);
    return all.sort((a, b) => a - b).slice(cut, all.length - cut);
  });
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low > high) return [0, 1];
  const pad = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - pad, high + pad];
}

function scale([low, high], from, to) {
  return (value) => from + ((value - low) / (high - low)) * (to - from);
}

// Three to six round numbers inside a range.
function ticks([low, high], about = 4) {
  const rough = (high - low) / about;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.75);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(i * step);
  return found;
}

// What lies outside of the box is not drawn; marks on its edge are.
function clipped({ left, right, top, bottom }, markup) {
  const box = [left - 4, top - 4, right - left + 8, bottom - top + 8];
  const place = `x="${box[0]}" y="${box[1]}" width="${box[2]}" height="${box[3]}"`;
  return `<svg ${place} viewBox="${box.join(" ")}">${markup}</svg>`;
}

function grid({ left, right }, range, y) {
  return ticks(range)
    .map((value) => {
      const at = y(value).toFixed(1);
      const line = `<line class="grid" x1="${left}" x2="${right}" y1="${at}" y2="${at}"/>`;
      return `${line}${label(left - 6, Number(at) + 3, shortNumber(value), "end")}`;
    })
    .join("");
}

function stepLabels(range, x, height) {
  const whole = ticks(range).filter((step) => Number.isInteger(step));
  return whole.map((step) => label(x(step), height - 5, shortStep(step), "middle")).join("");
}

function shortStep(step) {
  if (step >= 1e6) return `${step / 1e6}M`;
  return step >= 1e4 ? `${step / 1e3}k` : String(step);
}

function label(x, y, text, anchor) {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="${anchor}">${text}</text>`;
}

function curveMarkup({ points, colour, raw, mark }, x, y) {
  const places = points.map(([step, value]) => [x(step).toFixed(1), y(value).toFixed(1)]);
  const kind = raw ? "raw" : "curve";
  const path = `M${places.map((place) => place.join(" ")).join("L")}`;
  const line = `<path class="${kind}" style="stroke: var(${colour})" d="${path}"/>`;
  const lone = places.length === 1 && !raw ? "circle" : undefined;
  const marks = places.length < 60 ? mark ?? lone : undefined;
  return marks ? line + places.map((place) => markMarkup(marks, place, colour)).join("") : line;
}

function markMarkup(mark, [x, y], colour) {
  const style = `style="fill: var(${colour})"`;
  if (mark === "circle") return `<circle cx="${x}" cy="${y}" r="3" ${style}/>`;
  const path = mark === "square" ? "m-2.7 -2.7h5.4v5.4h-5.4z" : "m0 -3.4l3.3 5.8h-6.6z";
  return `<path transform="translate(${x} ${y})" d="${path}" ${style}/>`;
}

function rateStrip(points, x, { left, right }, bottom) {
  const highest = points.reduce((most, point) => Math.max(most, point[1]), 0) || 1;
  const y = scale([0, highest], bottom, bottom - STRIP + 4);
  const base = `<line class="grid" x1="${left}" x2="${right}" y1="${bottom}" y2="${bottom}"/>`;
  const name = label(left - 6, bottom - STRIP + 12, points.length ? shortNumber(highest) : "", "end");
  if (!points.length) return base + name;
  return base + name + curveMarkup({ points, colour: SERIES.learning_rate.colour }, x, y);
}
