// Rows of a report (nodes/evaluation/report_view.py) -> a table that sorts by any of its columns.

import { element } from "./widgets.js";

const DIRECTIONS = { lower: "↓ lower", higher: "↑ higher" };
const ORDERS = { up: "ascending", down: "descending" };

// `sorting` is {column: its key, order}, changed when a heading is pressed; order "" is that of the
// report.
export function reportTable(rows, sorting) {
  const columns = columnsOf(rows);
  const body = element("tbody");
  const heads = columns.map((column) => makeHead(column, press));
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads)), body);

  function press(key) {
    const turns = { "": "up", up: "down", down: "" };
    const order = sorting.column === key ? turns[sorting.order] : "up";
    Object.assign(sorting, { column: key, order });
    fill();
  }

  function fill() {
    columns.forEach(({ key }, i) => {
      const order = key === sorting.column ? sorting.order : "";
      heads[i].setAttribute("aria-sort", ORDERS[order] ?? "none");
    });
    body.replaceChildren(...sorted(rows, columns, sorting).map((row) => makeRow(row, columns)));
  }

  fill();
  return table;
}

// {key, title, of: what it is sorted by, text: what is shown (default: that), number, note}; a
// condition may have the title of another column, but not its key.
function columnsOf(rows) {
  const names = new Set(rows.map((row) => row.report));
  const conditions = new Set(rows.flatMap((row) => Object.keys(row.conditions)));
  const columns = [
    ...(names.size > 1 ? [{ title: "report", of: (row) => row.report }] : []),
    ...[...conditions].map((title) => ({
      key: `condition ${title}`,
      title,
      of: (row) => row.conditions[title] ?? null,
      number: rows.every((row) => typeof row.conditions[title] !== "string"),
    })),
    { title: "metric", of: (row) => row.metric },
    { title: "value", of: (row) => row.value, text: (row) => digits(row.value, 5), number: true },
    { title: "interval", of: (row) => row.low, text: intervalText, number: true, note: reasonOf },
    { title: "n", of: (row) => row.n, number: true },
    { title: "better", of: (row) => row.better, text: (row) => DIRECTIONS[row.better] },
  ];
  return columns.map((column) => ({ key: column.title, ...column }));
}

function makeHead({ key, title, number }, press) {
  const label = element("button", { type: "button", title: `Sort by ${title}` }, title);
  label.addEventListener("click", () => press(key));
  return element("th", { scope: "col", class: number ? "mip-right" : null }, label);
}

function makeRow(row, columns) {
  const cells = columns.map(({ of, text, number, note }) => {
    const shown = text ? text(row) : (of(row) ?? "");
    const why = note?.(row);
    const style = [number && "mip-right mip-number", why && "mip-soft"].filter(Boolean).join(" ");
    return element("td", { class: style || null, title: why || null }, String(why || shown));
  });
  return element("tr", {}, ...cells);
}

// Rows without a value stay last, whichever way round.
function sorted(rows, columns, { column, order }) {
  const of = columns.find(({ key }) => key === column)?.of;
  if (!of || !order) return rows;
  const sign = order === "up" ? 1 : -1;
  const missing = (row) => of(row) === null;
  return [...rows].sort(
    (a, b) => missing(a) - missing(b) || (missing(a) ? 0 : sign * compared(of(a), of(b))),
  );
}

function compared(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

function intervalText({ low, high, std }) {
  if (low !== null && high !== null) return `${digits(low, 4)} – ${digits(high, 4)}`;
  return std === null ? "" : `± ${digits(std, 3)}`;
}

// Why there is no value, in place of the interval.
function reasonOf(row) {
  return row.value === null ? row.reason : "";
}

function digits(value, count) {
  if (value === null) return "–";
  const size = Math.abs(value);
  const plain = size === 0 || (size >= 1e-4 && size < 1e6);
  return plain ? String(Number(value.toPrecision(count))) : value.toExponential(2);
}
