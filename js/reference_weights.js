// Text of the node's weights <-> numbers, by the rules of models/references.py.

const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

// Numbers of a text: [] when nothing is written, null when something else than positive numbers.
export function parseWeights(text) {
  const words = String(text ?? "").split(/[\s,;]+/).filter(Boolean);
  return words.every(isWeight) ? words.map(Number) : null;
}

export function formatWeights(weights) {
  return weights.join(", ");
}

// Weights after references came or went: each keeps its own, one that is back has what it had,
// a new one weighs 1. `before` and `after` are lists of {key, count}, one for each input and its
// pictures; `known` remembers the weights of each key.
export function carriedOver(weights, before, after, known) {
  const kept = new Map();
  let at = 0;
  for (const { key, count } of before) {
    const own = weights.slice(at, (at += count));
    kept.set(key, [...(kept.get(key) ?? []), own]);
    known.set(key, own);
  }
  return after.flatMap(({ key, count }) => {
    const own = kept.get(key)?.shift() ?? known.get(key) ?? [];
    return Array.from({ length: count }, (_, i) => own[i] ?? 1);
  });
}

// In single precision, as the node computes.
function isWeight(word) {
  const value = NUMBER.test(word) ? Math.fround(Number(word)) : NaN;
  return value > 0 && value < Infinity;
}
