"""The page of the second part: what the demo ships, on people who were never looked at before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ...evaluation.intervals import Interval
from ...models.files import atomically
from .cells import (
    AGAIN,
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
from .results import CEILING, claims_table, percent, table_csv, write_text
from .summary import Claim, Row, shown

ABOUT = """\
[All ways to train and to aggregate](results.md) were compared with guidance 5 and lambda = 1, on
people of whom half had been looked at while guidance and models were chosen. Then guidance {cfg:g}
with lambda = {weight:g} did better on 192 other people, and the demo ships with that. Here this
choice is put to the test on {people} people (from number {first:,} of those held out) whom neither
a model nor anybody of us had seen, 3 views and noises each. What the scores mean is told
[there](results.md).

- `multi_learned`: the adapter that comes with the pack.
- `multi_learned_again`: the same config with another seed, to see what one more run of training
  changes.
- `single`: trained to restore a picture from itself, then used with several references. Each
  lambda is tried, so that it is compared at its best."""


def write(
    output: Path,
    rows: Mapping[Cell, Row],
    ceiling: Row,
    claims: Sequence[Claim],
    again: Mapping[str, Interval],
    about: str,
) -> None:
    """Write results-confirmed.md, its table and its charts into a folder.

    Args:
        output: the folder.
        rows, ceiling: figures of the cells and of the real pictures.
        claims: of `summary`.
        again: score -> how the adapter trained again differs from the first at SWEPT references.
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
    write_text(output / "results-confirmed.md", page(rows, ceiling, claims, again, about))


def page(
    rows: Mapping[Cell, Row],
    ceiling: Row,
    claims: Sequence[Claim],
    again: Mapping[str, Interval],
    about: str,
) -> str:
    """The page in Markdown."""
    numbers = [Cell(*MAIN, n, CONFIRMED.weight) for n in NUMBERS]
    repeated = [cell for cell in rows if cell.adapter == AGAIN[0]]
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
        "## What was to be shown",
        claims_table(claims),
        "## Against the number of references",
        _table((_named(cell), rows[cell]) for cell in [*numbers, *repeated]),
        f"Trained again, at N = {SWEPT}: {_again(again)}.",
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


def _again(again: Mapping[str, Interval]) -> str:
    units = {"accuracy": 100, "similarity": 1, "caption": 100}
    return ", ".join(
        f"{score} {shown(again[score], unit)}{' points' if unit == 100 else ''}"
        for score, unit in units.items()
    )


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
