"""Per-image values in, their mean with a confidence interval out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor


class Interval(NamedTuple):
    """A mean and its bootstrap interval.

    Attributes:
        mean, low, high: in the unit of the values.
        n: number of values.
        resampled: what the interval varies: "identities and prompts", "identities", "prompts" or
            "images". It says nothing about other identities if they were not varied.
        clusters: number of these; the smaller one of two. Below about 10 the interval is too short.
    """

    mean: float
    low: float
    high: float
    n: int
    resampled: str
    clusters: int


def mean_interval(
    values: Sequence[float] | np.ndarray | Tensor,
    identities: Sequence[Hashable] | None = None,
    prompts: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of per-image values with a percentile interval that respects who and what they show.

    Pictures of one identity or prompt are alike, so these are resampled, not the pictures: each
    picture counts as often as its identity times its prompt was drawn (pigeonhole bootstrap, Owen
    2007, doi 10.1214/07-AOAS122). A factor with a single level is left alone; with none left,
    pictures are resampled. Not for FID, whose bootstrap is biased.

    Args:
        values: [N], N >= 2.
        identities: [N], whom each picture shows.
        prompts: [N], what each picture was made from.
        confidence: between 0 and 1.
        resamples: number of draws.
        seed: of the draws.

    Raises:
        ValueError: too few values, NaN, labels of another number, or confidence out of range.
    """
    values = np.asarray(values, dtype=np.float64)
    _check(values, identities, prompts, confidence, resamples)
    factors = _factors(len(values), identities, prompts)
    random = np.random.default_rng(seed)
    means: list[float] = []
    while len(means) < resamples:
        weights = np.ones(len(values))
        for codes, levels in factors.values():
            drawn = random.integers(levels, size=levels)
            weights *= np.bincount(drawn, minlength=levels)[codes]
        total = weights.sum()
        if total:  # drawn identities and drawn prompts may have no picture in common
            means.append(weights @ values / total)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(
        float(values.mean()),
        float(low),
        float(high),
        len(values),
        " and ".join(factors),
        min(levels for _, levels in factors.values()),
    )


def _factors(
    n: int, identities: Sequence[Hashable] | None, prompts: Sequence[Hashable] | None
) -> dict[str, tuple[np.ndarray, int]]:
    """What to resample: each factor's codes [N], and its number of levels."""
    found: dict[str, tuple[np.ndarray, int]] = {}
    for name, labels in (("identities", identities), ("prompts", prompts)):
        codes = _codes(labels) if labels is not None else np.zeros(n, dtype=int)
        levels = int(codes.max()) + 1
        # Each identity with a prompt of its own is one factor, which must not be drawn twice.
        known = any(np.array_equal(codes, other) for other, _ in found.values())
        if levels > 1 and not known:
            found[name] = codes, levels
    return found or {"images": (np.arange(n), n)}


def _codes(labels: Sequence[Hashable]) -> np.ndarray:
    """Labels numbered in the order in which they first appear."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels])


def _check(values, identities, prompts, confidence, resamples) -> None:
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(
            f"Got values of shape {list(values.shape)}; expected at least 2 in a row. Add pictures."
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"{(~np.isfinite(values)).sum()} of {len(values)} values are NaN or infinite; expected "
            "finite numbers. Leave out the pictures without a value, with their labels."
        )
    for name, labels in (("identities", identities), ("prompts", prompts)):
        if labels is not None and len(labels) != len(values):
            raise ValueError(
                f"Got {len(labels)} {name} for {len(values)} values; expected one each. Pass the "
                "labels of the same pictures."
            )
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(
            f"Got confidence {confidence} and {resamples} resamples; expected a confidence between "
            "0 and 1, such as 0.95, and at least 1 resample. Change these settings."
        )
