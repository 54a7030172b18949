"""What to evaluate, checked before any work begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..pictures.sources import Source
from .generated import GeneratedSet
from .plan import METRICS, REAL, check_metrics

MIXED_SIZES = ("resize", "skip")
_LARGEST_SEED = 2**32 - 1  # of NumPy's RandomState
_INCEPTION = {n for n, metric in METRICS.items() if ("inception", REAL) in metric.passes}


@dataclass(frozen=True)
class Request:
    """What to evaluate.

    Attributes:
        metrics: names of `METRICS`.
        statistics: a file that stands for the real pictures in FID.
        save_statistics: where to write those of the real pictures.
        mixed_sizes: "resize": every network resizes each picture; "skip": only the generated and
            real pictures of their most common size count, the others are listed.
        seed: of subsets, splits and intervals.
        splits: of the Inception Score.
        fid_minimum: with fewer pictures no FID is given.
    """

    metrics: Sequence[str]
    generated: GeneratedSet
    real: Source | None = None
    statistics: Path | None = None
    save_statistics: Path | None = None
    batch_size: int = 32
    device: str | torch.device = "cpu"
    mixed_sizes: str = "resize"
    seed: int = 0
    splits: int = 10
    fid_minimum: int = 50
    confidence: float = 0.95

    def __post_init__(self):
        object.__setattr__(self, "metrics", check_metrics(self.metrics))
        if self.mixed_sizes not in MIXED_SIZES:
            raise ValueError(
                f"Got mixed_sizes {self.mixed_sizes!r}; expected one of {', '.join(MIXED_SIZES)}."
            )
        for name in ("batch_size", "splits"):
            if getattr(self, name) < 1:
                raise ValueError(f"Got {name} {getattr(self, name)}; expected 1 or more.")
        if not 0 <= self.seed <= _LARGEST_SEED:
            raise ValueError(f"Got seed {self.seed}; expected 0 to {_LARGEST_SEED}.")
        if self.fid_minimum < 2:
            raise ValueError(f"Got fid_minimum {self.fid_minimum}; expected 2 or more.")
        if not 0 < self.confidence < 1:
            raise ValueError(
                f"Got confidence {self.confidence}; expected a number between 0 and 1, like 0.95."
            )
        if self.save_statistics and (self.real is None or not set(self.metrics) & _INCEPTION):
            raise ValueError(
                "Statistics can be saved only with real pictures and one of the metrics "
                f"{', '.join(sorted(_INCEPTION))}."
            )
