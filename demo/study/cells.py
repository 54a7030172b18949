"""What is compared: which adapter, how its references are aggregated, how many, how strongly."""

from __future__ import annotations

from typing import NamedTuple

from ..prompt import CFG, WEIGHT

NUMBERS = (1, 2, 3, 4, 6, 8)
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
SWEPT = 4  # references in the sweep over lambda
TUNED = 1.25  # lambda that did better than 1 on held-out people who are not in the study
BASE, DESCRIBED, RECODED = "base", "described", "recoded"  # without references


class Cell(NamedTuple):
    """One condition.

    Attributes:
        adapter: name of an adapter's file; or without one "base", the prompt alone; "described",
            the person told in words too; "recoded", real pictures through the VAE.
        aggregation: "concat", "mean" or "learned".
        references: N.
        weight: lambda.
    """

    adapter: str
    aggregation: str
    references: int
    weight: float


def without(kind: str) -> Cell:
    """A condition without references."""
    return Cell(kind, "", 0, 0.0)


# adapter -> the aggregations it is used with, the one it was trained with first
USES: dict[str, tuple[str, ...]] = {
    "multi_learned": ("learned",),
    "multi_concat": ("concat",),
    "multi_mean": ("mean",),
    "multi_slots": ("learned",),
    "single": ("concat", "mean"),
    "pairs": ("concat", "mean"),
}
ON_ONE = ("single", "pairs")  # trained on one reference
MAIN, RIVAL = ("multi_learned", "learned"), ("single", "concat")
SWEEPS = (MAIN, RIVAL)  # over lambda


class Part(NamedTuple):
    """A part of the study: whom it looks at, and how.

    Attributes:
        first: number of the first of its held-out identities.
        cfg: guidance.
        weight: lambda where nothing else is said.
        cells: all conditions, each once.
    """

    first: int
    cfg: float
    weight: float
    cells: tuple[Cell, ...]


def _compared() -> tuple[Cell, ...]:
    """Every way to train and to aggregate."""
    cells = [without(kind) for kind in (BASE, DESCRIBED, RECODED)]
    for adapter, methods in USES.items():
        cells += [Cell(adapter, method, n, 1.0) for method in methods for n in NUMBERS]
    cells += [Cell(*use, SWEPT, weight) for use in SWEEPS for weight in WEIGHTS]
    return tuple(dict.fromkeys(cells))


CONFIRMED_WEIGHTS = (0.75, 1.0, 1.25, 1.5)
CONFIRMED_SWEEPS = (MAIN, RIVAL, (RIVAL[0], "mean"))


def _confirmed() -> tuple[Cell, ...]:
    """What the demo ships, and its rival."""
    cells = [without(kind) for kind in (BASE, DESCRIBED, RECODED)]
    cells += [Cell(*MAIN, n, WEIGHT) for n in NUMBERS]
    cells += [Cell(*use, SWEPT, weight) for use in CONFIRMED_SWEEPS for weight in CONFIRMED_WEIGHTS]
    return tuple(dict.fromkeys(cells))


COMPARED = Part(0, 5.0, 1.0, _compared())
CONFIRMED = Part(3_000, CFG, WEIGHT, _confirmed())
