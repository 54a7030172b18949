"""Writes what was measured: a page, a table for other programs, and charts."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ...demo_world import world
from ...evaluation.metrics.intervals import Interval
from ...files.atomic import atomically
from .cells import (
    BASE,
    DESCRIBED,
    MAIN,
    NUMBERS,
    ON_ONE,
    RECODED,
    SWEPT,
    USES,
    Cell,
    without,
)
from .charts import by_number, by_weight
from .summary import SCORES, Claim, Rank, Row, shown

Rows = Mapping[Cell, Row]
CEILING = Cell("real pictures", "", 0, 0.0)
HOLDS = (
    "A target with a number (80 %, 10 points) is tested on the mean. A direction, and a loss that "
    "must not happen, are tested on the whole interval. Chance is a guess among the values that "
    "the wanted view can show."
)
_CHARTS = {
    "accuracy": "attribute accuracy",
    "similarity": "identity similarity",
    "caption": "caption alignment",
    "copying": "copy-paste score",
}


class Found(NamedTuple):
    """All that the page shows.

    Attributes:
        rows, ceiling: figures of the cells and of the real pictures.
        ranks, claims: from `summary`.
        attributes: condition -> accuracy of each attribute.
        covered: (adapter, aggregation) -> for each of NUMBERS, accuracy of what references show.
        times_shown: the same at SWEPT references, by how many of them show the attribute: 0, 1, ...
        also_wrong: what `summary.also_wrong` returns.
    """

    rows: Rows
    ceiling: Row
    ranks: Sequence[Rank]
    claims: Sequence[Claim]
    attributes: Mapping[str, Sequence[float]]
    covered: Mapping[tuple[str, str], Sequence[Interval]]
    times_shown: Mapping[tuple[str, str], Sequence[Interval]]
    also_wrong: tuple[float, float]


def write(output: Path, found: Found, people: Image.Image, about: str) -> None:
    """Write results.md, results.csv and the pictures into a folder.

    Args:
        output: the folder.
        found: what was measured.
        people: references and what was drawn, side by side.
        about: what was measured, for the page's head.
    """
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "results.csv", table_csv({**found.rows, CEILING: found.ceiling}))
    with atomically(output / "results-people.jpg") as path:
        people.save(path, "JPEG", quality=88)
    levels = {
        "real pictures": found.ceiling,
        "told in words": found.rows[without(DESCRIBED)],
        "no references": found.rows[without(BASE)],
    }
    for score, title in _CHARTS.items():
        for along, chart in (("n", by_number), ("lambda", by_weight)):
            with atomically(output / f"results-{score}-{along}.png") as path:
                chart(found.rows, score, title, levels).save(path, "PNG")
    write_text(output / "results.md", page(found, about))


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


def page(found: Found, about: str) -> str:
    """The page in Markdown."""
    rows = found.rows
    parts = [
        "# How should N references be aggregated?",
        about,
        f"## The answer at N = {SWEPT}",
        _answer(found.ranks),
        _ranking_table(found.ranks),
        "![People, and what each condition made of their references](results-people.jpg)",
        "*The first six people, the same view and noise in every column.*",
        "## What the references show, and what is kept of it",
        "More references show more of a person; an attribute that none of them shows can only be "
        "guessed. The table gives the percentage right of the attributes that at least one of them "
        "shows (an aggregation that keeps all that it is given has the same figure for every N):",
        _use_table([f"N = {n}" for n in NUMBERS], found.covered),
        f"The same at N = {SWEPT}, by how many of the {SWEPT} references show the attribute:",
        _use_table(["none", *map(str, range(1, SWEPT)), "all"], found.times_shown),
        "## Claims",
        HOLDS,
        claims_table(found.claims),
        "## Against the number of references",
        "![Attribute accuracy against N](results-accuracy-n.png)",
        "Attribute accuracy in per cent, lambda = 1:",
        _by_number_table(rows, lambda row: percent(row.scores["accuracy"])),
        "![Identity similarity against N](results-similarity-n.png)",
        "Identity similarity (cosine):",
        _by_number_table(rows, lambda row: f"{row.scores['similarity'].mean:.3f}"),
        "![Caption alignment against N](results-caption-n.png)",
        "Caption alignment in per cent:",
        _by_number_table(rows, lambda row: percent(row.scores["caption"])),
        "![Copy-paste score against N](results-copying-n.png)",
        "Copy-paste:",
        _by_number_table(rows, lambda row: f"{row.scores['copying'].mean:+.2f}"),
        "FID in the scorer's features:",
        _by_number_table(rows, lambda row: f"{row.fid:.1f}"),
        "## Against lambda",
        "![Attribute accuracy against lambda](results-accuracy-lambda.png)",
        "![Identity similarity against lambda](results-similarity-lambda.png)",
        "![Caption alignment against lambda](results-caption-lambda.png)",
        "![Copy-paste score against lambda](results-copying-lambda.png)",
        "## What limits the accuracy",
        _lacking(found),
        _levels_table(rows, found.ceiling),
        "Percentage right of each attribute, where the wanted view shows it:",
        _attribute_table(found.attributes),
        "All figures with their intervals: [results.csv](results.csv).",
    ]
    return "\n\n".join(parts) + "\n"


def claims_table(claims: Sequence[Claim]) -> str:
    """Each claim, and what came out."""
    head = "| | holds | measured, 95 % interval |\n|---|---|---|"
    lines = [f"| {c.text} | {'yes' if c.holds else '**no**'} | {c.measured} |" for c in claims]
    return "\n".join([head, *lines])


def _lacking(found: Found) -> str:
    real, recoded, told, four = (
        100 * row.scores["accuracy"].mean
        for row in (
            found.ceiling,
            found.rows[without(RECODED)],
            found.rows[without(DESCRIBED)],
            found.rows[Cell(*MAIN, SWEPT, 1.0)],
        )
    )
    missed, anyway = (100 * share for share in found.also_wrong)
    return (
        f"The scorer reads {real:.1f} % of the attributes in real pictures, and {recoded:.1f} % "
        "after the VAE has encoded and decoded them. The frozen base without an adapter can be "
        "told in words what the wanted view shows of the person (up to ten attributes: a prompt "
        f"holds no more). It then draws {told:.1f} % right; with four references and no such words "
        f"{four:.1f} % are right. Words are another way to ask the same base, not an upper bound: "
        "some attributes come better from pictures. Both ways fail on much the same attributes: of "
        "those that the scorer reads in the real picture and that are wrong with four references, "
        f"{missed:.0f} % are wrong when told in words too; of all that it reads, {anyway:.0f} %."
    )


def _use_table(columns: Sequence[str], found: Mapping[tuple[str, str], Sequence[Interval]]) -> str:
    head = "| trained on, used with | " + " | ".join(columns) + " |"
    lines = [
        f"| {', '.join(use)} | " + " | ".join(map(percent, values)) + " |"
        for use, values in found.items()
    ]
    return "\n".join([head, "|---" * (len(columns) + 1) + "|", *lines])


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
        f"| {name} | {percent(row.scores['accuracy'])} | {row.scores['similarity'].mean:.3f} "
        f"| {percent(row.scores['caption'])} | {row.fid:.1f} | {row.kid:.0f} "
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
    """How much the training matters, and how much the way to join the references."""
    several, one = [], []
    for rank in (rank for rank in ranks if (rank.adapter, rank.aggregation) != MAIN):
        (one if rank.adapter in ON_ONE else several).append(rank)
    points = {
        kind: _range_of(100 * r.differences["accuracy"].mean for r in group)
        for kind, group in (("several", several), ("one", one))
    }
    alike = [
        _name(rank)
        for rank in ranks
        if (rank.adapter, rank.aggregation) != MAIN
        and not _excludes_zero(rank.differences["accuracy"])
    ]
    told = (
        f"{_name(ranks[0])} is the most accurate. Differences in attribute accuracy to "
        f"{_use(MAIN)} are {points['several']} points for the others trained on several "
        f"references, whichever way they join them, and {points['one']} for those trained on one. "
    )
    if alike:
        told += f"The study shows no difference for {' and '.join(alike)}. "
    return told + "The table gives paired differences with 95 % intervals:"


def _range_of(values: Iterable[float]) -> str:
    low, *_, high = sorted(values)
    return f"{low:+.1f} to {high:+.1f}"


def _use(use: tuple[str, str]) -> str:
    return "`{}` with `{}`".format(*use)


def _name(rank: Rank) -> str:
    return _use((rank.adapter, rank.aggregation))


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


def percent(interval: Interval) -> str:
    """Mean and half the width of its interval."""
    return f"{100 * interval.mean:.1f} ± {50 * (interval.high - interval.low):.1f}"


def write_text(path: Path, text: str) -> None:
    """Atomically."""
    with atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
