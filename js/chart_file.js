// The chart of a run as a PNG file, larger than on the node and with its legend.

import { CHART_STYLES, SERIES, chartMarkup, valueAt } from "./line_chart.js";
import { smoothed } from "./training_data.js";
import { download, shortNumber } from "./widgets.js";

const WIDTH = 960;
const HEIGHT = 540;
const HEAD = 64;
const SHARPNESS = 2; // pixels for one unit

// Colours are those of `root`, so of the present theme.
export async function saveChart(root, data, hidden, status) {
  const height = HEIGHT - HEAD - 12;
  const chart = chartMarkup({ width: WIDTH - 24, height, data, hidden, cursor: null });
  const head = headMarkup(data, hidden, status);
  const body = `<g transform="translate(12 ${HEAD})">${chart}</g>`;
  const picture = await drawn(svgText(getComputedStyle(root), head + body));
  download(`${data.run}-training.png`, picture);
}

function svgText(style, content) {
  const names = ["--mip-soft", "--mip-line", ...Object.values(SERIES).map((s) => s.colour)];
  const colours = names.map((name) => `${name}: ${style.getPropertyValue(name)}`).join("; ");
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" class="mip-chart" width="${WIDTH}" height="${HEIGHT}"` +
    ` style="color: ${style.color}; ${colours}"><style>${CHART_STYLES}</style>` +
    `<rect width="100%" height="100%" style="fill: ${style.backgroundColor}"/>${content}</svg>`
  );
}

function headMarkup(data, hidden, status) {
  const title = `<text x="20" y="26" style="font-size: 15px; fill: currentColor">`;
  const curves = { ...data, loss: smoothed(data.loss) };
  const parts = [`${title}${escaped(data.run)}: ${escaped(status)}</text>`];
  let x = 20;
  for (const [name, { label, colour }] of Object.entries(SERIES)) {
    if (hidden.has(name)) continue;
    const text = `${label} ${shortNumber(valueAt(curves[name], data.step))}`;
    parts.push(`<rect x="${x}" y="42" width="14" height="4" style="fill: var(${colour})"/>`);
    parts.push(`<text x="${x + 20}" y="48" style="font-size: 12px">${text}</text>`);
    x += 44 + 7 * text.length;
  }
  return parts.join("");
}

function escaped(text) {
  const holder = document.createElement("span");
  holder.textContent = text;
  return holder.innerHTML;
}

async function drawn(svg) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = WIDTH * SHARPNESS;
  canvas.height = HEIGHT * SHARPNESS;
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
