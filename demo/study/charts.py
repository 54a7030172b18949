"""Scores drawn against N and against lambda."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...figures.axes import COLOURS, INK, Axes, Drawn
from .cells import NUMBERS, SWEEPS, SWEPT, USES, WEIGHTS, Cell
from .summary import Row

Rows = Mapping[Cell, Row]
_BROWN, _FAINT = "#8c564b", "#808080"


def by_number(rows: Rows, score: str, title: str, levels: Mapping[str, Row]):
    """Score against N, a curve for each adapter and aggregation."""
    curves = {
        ", ".join(use): [(n, Cell(*use, n, 1.0)) for n in NUMBERS]
        for use in ((adapter, method) for adapter, methods in USES.items() for method in methods)
    }
    return _chart(f"{title} against N (lambda = 1)", "N", score, curves, rows, levels)


def by_weight(
    rows: Rows,
    score: str,
    title: str,
    levels: Mapping[str, Row],
    sweeps: Sequence[tuple[str, str]] = SWEEPS,
    weights: Sequence[float] = WEIGHTS,
):
    """Score against lambda."""
    curves = {
        ", ".join(use): [(weight, Cell(*use, SWEPT, weight)) for weight in weights]
        for use in sweeps
    }
    return _chart(f"{title} against lambda (N = {SWEPT})", "lambda", score, curves, rows, levels)


def _chart(title, x_name, score, curves, rows, levels):
    """A colour for each adapter; dashes for a use other than the first, and for the levels."""
    placed = {
        name: [(x, rows[cell].scores[score]) for x, cell in points if rows[cell].scores[score]]
        for name, points in curves.items()
    }
    flat = {name: row.scores[score] for name, row in levels.items() if row.scores[score]}
    adapters = dict(zip(USES, COLOURS, strict=False))
    colours = {name: adapters[points[0][1].adapter] for name, points in curves.items()}
    colours |= dict(zip(flat, (INK, _BROWN, _FAINT), strict=False))
    other = {name for name, points in curves.items() if _is_other_use(points[0][1])}
    xs = [x for points in placed.values() for x, _ in points]
    ys = [y for points in placed.values() for _, v in points for y in (v.low, v.high)]
    ys += [v.mean for v in flat.values()]
    legend = [Drawn(name, colour, name in {*other, *flat}) for name, colour in colours.items()]
    axes = Axes(title, x_name, "mean, 95 % interval", xs, ys, legend)
    for name, value in flat.items():
        axes.level(value.mean, colours[name])
    for name, points in placed.items():
        axes.band([(x, v.low, v.high) for x, v in points], colours[name], filled=False)
        axes.line([(x, v.mean) for x, v in points], colours[name], dashed=name in other)
    return axes.image


def _is_other_use(cell: Cell) -> bool:
    return cell.aggregation != USES[cell.adapter][0]
