"""Writes what was measured: a page, a table for other programs, and charts."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from ...evaluation.axes import COLOURS, INK, Axes
from ...evaluation.intervals import Interval
from ...models.files import atomically
from .. import world
from .cells import (
    BASE,
    DESCRIBED,
    MAIN,
    NUMBERS,
    RECODED,
    RIVAL,
    SWEPT,
    USES,
    WEIGHTS,
    Cell,
    without,
)
from .summary import SCORES, Claim, Rank, Row, shown

Rows = Mapping[Cell, Row]
_BROWN, _FAINT = "#8c564b", "#808080"
CEILING = Cell("real pictures", "", 0, 0.0)
_CHARTS = {
    "accuracy": "attribute accuracy",
    "similarity": "identity similarity",
    "caption": "caption alignment",
    "copying": "copy-paste score",
}


def write(
    output: Path,
    rows: Rows,
    ceiling: Row,
    ranks: Sequence[Rank],
    found: Sequence[Claim],
    attributes: Mapping[str, Sequence[float]],
    people: Image.Image,
    about: str,
) -> None:
    """Write results.md, results.csv and the charts into a folder.

    Args:
        output: the folder.
        rows, ceiling: figures of the cells and of the real pictures.
        ranks, found: of `summary`.
        attributes: condition -> accuracy of each attribute.
        people: references and what was drawn, side by side.
        about: what was measured, for the page's head.
    """
    output.mkdir(parents=True, exist_ok=True)
    _write_text(output / "results.csv", table_csv({**rows, CEILING: ceiling}))
    with atomically(output / "results-people.jpg") as path:
        people.save(path, "JPEG", quality=88)
    for score, title in _CHARTS.items():
        levels = {
            "real pictures": ceiling,
            "told in words": rows[without(DESCRIBED)],
            "no references": rows[without(BASE)],
        }
        for along, chart in (("n", by_number), ("lambda", by_weight)):
            name = f"results-{score}-{along}.png"
            with atomically(output / name) as path:
                chart(rows, score, title, levels).save(path, "PNG")
    _write_text(output / "results.md", page(rows, ceiling, ranks, found, attributes, about))


def by_number(rows: Rows, score: str, title: str, levels: Mapping[str, Row]):
    """Score against N, a curve for each adapter and aggregation."""
    curves = {
        ", ".join(use): [(n, Cell(*use, n, 1.0)) for n in NUMBERS]
        for use in ((adapter, method) for adapter, methods in USES.items() for method in methods)
    }
    return _chart(f"{title} against N (lambda = 1)", "N", score, curves, rows, levels)


def by_weight(rows: Rows, score: str, title: str, levels: Mapping[str, Row]):
    """Score against lambda."""
    curves = {
        ", ".join(use): [(weight, Cell(*use, SWEPT, weight)) for weight in WEIGHTS]
        for use in (MAIN, RIVAL)
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
    dashed = {*other, *flat}
    axes = Axes(title, x_name, "mean, 95 % interval", xs, ys, list(colours.items()), dashed=dashed)
    for name, value in flat.items():
        axes.level(value.mean, colours[name])
    for name, points in placed.items():
        axes.band([(x, v.low, v.high) for x, v in points], colours[name], filled=False)
        axes.line([(x, v.mean) for x, v in points], colours[name], dashed=name in other)
    return axes.image


def _is_other_use(cell: Cell) -> bool:
    return cell.aggregation != USES[cell.adapter][0]


def table_csv(rows: Rows) -> str:
    """One line for each cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    spread = [f"{score}{end}" for score in SCORES for end in ("", "_low", "_high")]
    writer.writerow([*Cell._fields, *spread, "fid", "kid", "inception_score"])
    for cell, row in rows.items():
        values = [_numbers(row.scores[score]) for score in SCORES]
        ends = [f"{x:.5g}" for x in (row.fid, row.kid, row.inception)]
        writer.writerow([*cell, *(x for each in values for x in each), *ends])
    return text.getvalue()


def _numbers(interval: Interval | None) -> list[str]:
    if interval is None:
        return ["", "", ""]
    return [f"{x:.5g}" for x in (interval.mean, interval.low, interval.high)]


def page(
    rows: Rows,
    ceiling: Row,
    ranks: Sequence[Rank],
    found: Sequence[Claim],
    attributes: Mapping[str, Sequence[float]],
    about: str,
) -> str:
    """The page in Markdown; arguments as those of `write`."""
    parts = [
        "# How should N references be aggregated?",
        about,
        f"## The answer at N = {SWEPT}",
        _answer(ranks),
        _ranking_table(ranks),
        "![People, and what each condition made of their references](results-people.jpg)",
        "*The first six people, the same view and noise in every column.*",
        "## What was to be shown",
        "| | holds | measured, 95 % interval |\n|---|---|---|\n"
        + "\n".join(
            f"| {c.text} | {'yes' if c.holds else '**no**'} | {c.measured} |" for c in found
        ),
        "## Against the number of references",
        "![Attribute accuracy against N](results-accuracy-n.png)",
        "Attribute accuracy in per cent, lambda = 1:",
        _by_number_table(rows, lambda row: _percent(row.scores["accuracy"])),
        "Identity similarity (cosine):",
        _by_number_table(rows, lambda row: f"{row.scores['similarity'].mean:.3f}"),
        "Caption alignment in per cent:",
        _by_number_table(rows, lambda row: _percent(row.scores["caption"])),
        "Copy-paste:",
        _by_number_table(rows, lambda row: f"{row.scores['copying'].mean:+.2f}"),
        "FID in the scorer's features:",
        _by_number_table(rows, lambda row: f"{row.fid:.1f}"),
        "## Against lambda",
        "![Attribute accuracy against lambda](results-accuracy-lambda.png)",
        "![Caption alignment against lambda](results-caption-lambda.png)",
        "## What bounds it",
        _bounds(rows, ceiling),
        _levels_table(rows, ceiling),
        "Attributes one by one, per cent right where the wanted view shows them:",
        _attribute_table(attributes),
        "All figures with their intervals: [results.csv](results.csv).",
    ]
    return "\n\n".join(parts) + "\n"


def _bounds(rows: Rows, ceiling: Row) -> str:
    real, recoded, told, four = (
        100 * row.scores["accuracy"].mean
        for row in (
            ceiling,
            rows[without(RECODED)],
            rows[without(DESCRIBED)],
            rows[Cell(*MAIN, SWEPT, 1.0)],
        )
    )
    share = min((real - told) / (real - four), 1.0)
    return (
        f"The scorer reads {real:.1f} % of the attributes in real pictures, and {recoded:.1f} % "
        "after the VAE has encoded and decoded them. The frozen base without an adapter, told in "
        "words what the wanted view shows of the person (up to ten attributes: a prompt holds no "
        f"more), draws {told:.1f} % right; four references and no such words give {four:.1f} %. "
        f"So {share:.0%} of what four references lack to real pictures is lacking as well when the "
        "base is told in words: an adapter can only ask for what the frozen base can draw."
    )


def _levels_table(rows: Rows, ceiling: Row) -> str:
    levels = {
        "real pictures": ceiling,
        "real pictures through the VAE": rows[without(RECODED)],
        "base, told in words": rows[without(DESCRIBED)],
        "base": rows[without(BASE)],
        **{f"{MAIN[0]}, N = {n}": rows[Cell(*MAIN, n, 1.0)] for n in (1, SWEPT)},
    }
    head = "| | accuracy | similarity | caption | FID | KID | IS |\n|---|---|---|---|---|---|---|"
    lines = [
        f"| {name} | {_percent(row.scores['accuracy'])} | {row.scores['similarity'].mean:.3f} "
        f"| {_percent(row.scores['caption'])} | {row.fid:.1f} | {row.kid:.0f} "
        f"| {row.inception:.1f} |"
        for name, row in levels.items()
    ]
    return "\n".join([head, *lines])


def _attribute_table(attributes: Mapping[str, Sequence[float]]) -> str:
    head = "| | " + " | ".join(attributes) + " |\n" + "|---" * (len(attributes) + 1) + "|"
    columns = [[f"{100 * share:.0f}" for share in shares] for shares in attributes.values()]
    names = zip(world.ATTRIBUTES, *columns, strict=True)
    return "\n".join([head, *(f"| {' | '.join(line)} |" for line in names)])


def _answer(ranks: Sequence[Rank]) -> str:
    first = ranks[0]
    clear, alike = [], []
    for rank in ranks:
        if (rank.adapter, rank.aggregation) != MAIN:
            (clear if _excludes_zero(rank.differences["accuracy"]) else alike).append(_name(rank))
    told = f"Most accurate: {_name(first)}."
    if clear:
        told += f" The interval of the difference to {', '.join(MAIN)} excludes zero for: "
        told += "; ".join(clear) + "."
    if alike:
        told += f" It does not for: {'; '.join(alike)}."
    return told + " Differences are paired, with their 95 % intervals:"


def _name(rank: Rank) -> str:
    return f"`{rank.adapter}` with `{rank.aggregation}`"


def _excludes_zero(interval: Interval) -> bool:
    return interval.low > 0 or interval.high < 0


def _ranking_table(ranks: Sequence[Rank]) -> str:
    head = (
        "| trained on, used with | accuracy, points | similarity | caption, points | copy-paste |"
    )
    units = {"accuracy": 100, "similarity": 1, "caption": 100, "copying": 1}
    lines = [
        f"| {rank.adapter}, {rank.aggregation} | "
        + " | ".join(shown(rank.differences[score], unit) for score, unit in units.items())
        + " |"
        for rank in ranks
        if (rank.adapter, rank.aggregation) != MAIN
    ]
    return "\n".join([head, "|---|---|---|---|---|", *lines])


def _by_number_table(rows: Rows, figure: Callable[[Row], str]) -> str:
    head = "| trained on, used with | " + " | ".join(f"N = {n}" for n in NUMBERS) + " |"
    lines = [
        f"| {adapter}, {method} | "
        + " | ".join(figure(rows[Cell(adapter, method, n, 1.0)]) for n in NUMBERS)
        + " |"
        for adapter, methods in USES.items()
        for method in methods
    ]
    return "\n".join([head, "|---" * (len(NUMBERS) + 1) + "|", *lines])


def _percent(interval: Interval) -> str:
    return f"{100 * interval.mean:.1f} ± {50 * (interval.high - interval.low):.1f}"


def _write_text(path: Path, text: str) -> None:
    with atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
