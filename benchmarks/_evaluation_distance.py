"""Time of FID from Inception features, against the matrix square root of SciPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from ..evaluation.metrics.frechet import frechet_distance, frechet_distance_from_features, root_of
from ..evaluation.metrics.statistics import gaussian_of
from ._timing import Quiet, Summary, interleaved, ratios, seconds, summarise

DIM = 2048
OURS, SQRTM = "from features", "from features, scipy.linalg.sqrtm"
STATISTICS, KEPT = "from statistics", "from statistics, reference factored before"


class DistanceResult(NamedTuple):
    """One line of the table: seconds, and how many times as long SciPy's way takes."""

    pictures: int
    variant: str
    seconds: Summary
    ratio: Summary | None
    value: float


def draw_features(n: int, seed: int) -> Tensor:
    """float32 [n, 2048]; as of Inception not negative, correlated, of many spreads."""
    random = torch.Generator().manual_seed(seed)
    mix = torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(99)) / DIM**0.5
    raw = torch.randn(n, DIM, generator=random) * torch.logspace(0, -2, DIM)
    return (raw @ mix * 3 + 0.1 * seed).relu()


def measure(n: int, rounds: int, quiet: Quiet) -> list[DistanceResult]:
    """Time every variant on two sets of `n` pictures."""
    x, y = draw_features(n, 0), draw_features(n, 1)
    p, q = gaussian_of(x), gaussian_of(y)
    reference = root_of(q)
    values: dict[str, float] = {}

    def timed(name: str, compute: Callable[[], float]) -> Callable[[], float]:
        return lambda: seconds(lambda: values.__setitem__(name, compute()))

    a, b = x.double().numpy(), y.double().numpy()
    variants = {
        OURS: lambda: frechet_distance_from_features(x, y),
        STATISTICS: lambda: frechet_distance(p, q),
        KEPT: lambda: frechet_distance(p, reference),
        SQRTM: lambda: _with_matrix_root(*_moments(a), *_moments(b)),
    }
    samples = interleaved(
        {name: timed(name, compute) for name, compute in variants.items()},
        rounds,
        quiet,
        f"FID of {n} pictures",
    )
    return [
        DistanceResult(
            n,
            name,
            summarise(samples[name]),
            ratios(samples[SQRTM], samples[name]) if name == OURS else None,
            values[name],
        )
        for name in variants
    ]


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return features.mean(axis=0), np.cov(features, rowvar=False)


def _with_matrix_root(mp: np.ndarray, sp: np.ndarray, mq: np.ndarray, sq: np.ndarray) -> float:
    """As pytorch-fid and clean-fid compute it."""
    root = scipy.linalg.sqrtm(sp @ sq)
    return float(((mp - mq) ** 2).sum() + np.trace(sp + sq - 2 * root.real))
