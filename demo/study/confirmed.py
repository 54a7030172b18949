"""The page of the second part: what the demo ships, on people who were never looked at before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ...evaluation.metrics.intervals import Interval
from ...files.atomic import atomically
from .cells import (
    BASE,
    CONFIRMED,
    CONFIRMED_SWEEPS,
    CONFIRMED_WEIGHTS,
    DESCRIBED,
    MAIN,
    NUMBERS,
    RECODED,
    SWEPT,
    Cell,
    without,
)
from .charts import by_weight
from .results import CEILING, HOLDS, claims_table, percent, table_csv, write_text
from .summary import Claim, Row

ABOUT = """\
[All ways to train and to aggregate](results.md) were compared with guidance 5 and lambda = 1;
half of the people there had been looked at while guidance and models were chosen. Then guidance
{cfg:g} with lambda = {weight:g} did better on 192 other people, and the demo ships with that.
This page tests the choice on {people} people (from number {first:,} of those held out) whom
neither a model nor anyone who chose a setting has seen, with 3 views and noises each.
[The first page](results.md) explains the scores and how to repeat the study.

- `multi_learned`: the adapter that comes with the pack.
- `single`: trained for as long, to restore a picture from itself; then used with several
  references. It is compared at the best of the lambdas below; guidance was chosen with
  `multi_learned`."""


TRIED = """\
The following was tried once, on the 192 people on whom the settings were chosen (73.5 % right), and
the command does not repeat it: 3,500 further steps of training in which half of the rows counted
the face alone (73.2 %), the mean of both adapters' weights (73.5), lambda = 2 (73.2) and 2.5
(72.2), guidance 2.5 and 4 with lambda = 2 (73.3, 72.6), and 28 steps of sampling instead of 16
(73.5). 256 further people, from number 2,000, also gave 79.6 % of real pictures.

Before this result, chance was taken to be a guess among all values (23.6 %). That is too low: for
example, freckles can be seen in more views than the absence of a mark."""


class Bounds(NamedTuple):
    """What limits the accuracy.

    Attributes:
        hidden: share of the wanted attributes that none of SWEPT references shows.
        accuracy: condition -> of all wanted attributes, of those that a reference shows, and of
            those that none shows.
        also_wrong: what `summary.also_wrong` returns.
    """

    hidden: float
    accuracy: Mapping[str, tuple[Interval, Interval, Interval]]
    also_wrong: tuple[float, float]


def write(
    output: Path,
    rows: Mapping[Cell, Row],
    ceiling: Row,
    claims: Sequence[Claim],
    bounds: Bounds,
    about: str,
) -> None:
    """Write results-confirmed.md, its table and its charts into a folder.

    Args:
        output: the folder.
        rows, ceiling: figures of the cells and of the real pictures.
        claims: from `summary`.
        bounds: what is lacking at SWEPT references.
        about: what was measured, for the page's head.
    """
    output.mkdir(parents=True, exist_ok=True)
    levels = {
        "real pictures": ceiling,
        "told in words": rows[without(DESCRIBED)],
        "no references": rows[without(BASE)],
    }
    charts = {"accuracy": "attribute accuracy", "caption": "caption alignment"}
    for score, title in charts.items():
        chart = by_weight(rows, score, title, levels, CONFIRMED_SWEEPS, CONFIRMED_WEIGHTS)
        with atomically(output / f"results-confirmed-{score}.png") as path:
            chart.save(path, "PNG")
    write_text(output / "results-confirmed.csv", table_csv({**rows, CEILING: ceiling}))
    write_text(output / "results-confirmed.md", page(rows, ceiling, claims, bounds, about))


def page(
    rows: Mapping[Cell, Row],
    ceiling: Row,
    claims: Sequence[Claim],
    bounds: Bounds,
    about: str,
) -> str:
    """The page in Markdown."""
    numbers = [Cell(*MAIN, n, CONFIRMED.weight) for n in NUMBERS]
    swept = [Cell(*use, SWEPT, w) for use in CONFIRMED_SWEEPS for w in CONFIRMED_WEIGHTS]
    levels = {"real pictures": ceiling} | {
        name: rows[without(kind)]
        for name, kind in (
            ("real pictures through the VAE", RECODED),
            ("base, told in words", DESCRIBED),
            ("base", BASE),
        )
    }
    parts = [
        "# The shipped settings, on people never looked at",
        about,
        "## Claims",
        HOLDS,
        claims_table(claims),
        "## What limits the accuracy",
        _bounds(bounds),
        "## Against the number of references",
        _table((_named(cell), rows[cell]) for cell in numbers),
        f"## Against lambda, N = {SWEPT}",
        "![Attribute accuracy against lambda](results-confirmed-accuracy.png)",
        "![Caption alignment against lambda](results-confirmed-caption.png)",
        _table((_named(cell), rows[cell]) for cell in swept),
        "## Without an adapter",
        _table(levels.items()),
        "All figures with their intervals: [results-confirmed.csv](results-confirmed.csv).",
    ]
    return "\n\n".join(parts) + "\n"


def _named(cell: Cell) -> str:
    return f"{cell.adapter}, {cell.aggregation}, N = {cell.references}, lambda {cell.weight:g}"


def _bounds(bounds: Bounds) -> str:
    real, coded, *_, four = bounds.accuracy.values()
    lines = [
        f"| {name} | "
        + " | ".join(
            f"{percent(value)} | {100 * value.mean / whole.mean:.1f}"
            for value, whole in zip(values, real, strict=True)
        )
        + " |"
        for name, values in bounds.accuracy.items()
    ]
    head = "| accuracy | all | of real | shown | of real | hidden | of real |"
    lost = 100 * bounds.hidden * (real[2].mean - four[2].mean)
    by_vae = 100 * (real[0].mean - coded[0].mean)
    missed, anyway = (100 * share for share in bounds.also_wrong)
    told = (
        f"{SWEPT} references together hide {100 * bounds.hidden:.1f} % of what is to be drawn. "
        f"That can only be guessed, which costs {lost:.1f} points; more references show more. The "
        f"VAE costs {by_vae:.1f} points. The base and the adapter share the rest: of the "
        "attributes that the scorer reads in the real picture and that are wrong with "
        f"{SWEPT} references, {missed:.0f} % are wrong too when the base is told them in words; "
        f"of all that it reads, {anyway:.0f} %."
    )
    about = (
        "*Shown* are the attributes that at least one of the references shows, *hidden* those that "
        "none shows. *Of real* is the result as a percentage of that in real pictures. In this "
        "table every attribute counts the same; above, every picture does."
    )
    table = "\n".join([head, "|---" * 7 + "|", *lines])
    return "\n\n".join([told, table, about, TRIED])


def _table(lines: Iterable[tuple[str, Row]]) -> str:
    head = "| | accuracy | similarity | caption | copy-paste | FID | KID | IS |"
    return "\n".join([head, "|---" * 8 + "|", *(_line(name, row) for name, row in lines)])


def _line(name: str, row: Row) -> str:
    copying = row.scores["copying"]
    values = (
        percent(row.scores["accuracy"]),
        f"{row.scores['similarity'].mean:.3f}",
        percent(row.scores["caption"]),
        f"{copying.mean:+.2f}" if copying else "",
        f"{row.fid:.1f}",
        f"{row.kid:.0f}",
        f"{row.inception:.1f}",
    )
    return f"| {name} | {' | '.join(values)} |"
