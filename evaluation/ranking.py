"""Scores of a batch of pictures -> the best of them, by one metric or a mix."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from ..figures.sheets import ranked_strip
from ..pictures.sources import TensorSource, picture_of
from .generated import GeneratedSet, generated_from_batches
from .plan import LOWER_IS_BETTER, PER_IMAGE
from .report import EvaluationReport

MIX, WEIGHTS = "mix", "identity: 1, aesthetic: 0.5, text_alignment: 0.5"
Scores = list[float | None]  # one for each picture; None: it has none
_LEAST_SPREAD = 0.01


class Batch(NamedTuple):
    """Pictures to choose from, and what they are compared with: IMAGE tensors [B, H, W, 3]."""

    images: Tensor
    references: Tensor | None
    targets: Tensor | None
    prompts: str | list[str]


class Ranking(NamedTuple):
    """Pictures by their scores.

    Attributes:
        scores: of every picture.
        best: numbers of those that have a score, best first.
    """

    metric: str
    scores: Scores
    best: list[int]

    @classmethod
    def of(cls, metric: str, found: Mapping[str, Scores], shares: Mapping[str, float]) -> Ranking:
        """By a metric, or by a mix of them in these shares.

        Raises:
            ValueError: no picture has a value.
        """
        scores = mixed(found, shares) if metric == MIX else found[metric]
        return cls(metric, scores, rank(scores, metric in LOWER_IS_BETTER))

    @property
    def without(self) -> list[int]:
        """Numbers of the pictures that have no score."""
        return [i for i, score in enumerate(self.scores) if score is None]

    def text(self, kept: list[int]) -> str:
        """The scores of some pictures, and which pictures have none."""
        lines = [f"{i}: {self.scores[i]:.4f}" for i in kept]
        if self.without:
            lines.append(f"{self.metric} has no value for {', '.join(map(str, self.without))}")
        return "\n".join(lines)

    def strip(self, images: Tensor, title: str) -> Image.Image:
        """All pictures, best first."""
        numbers, source = self.best + self.without, TensorSource(images)
        return ranked_strip(
            [picture_of(source, i) for i in numbers],
            [self.scores[i] for i in numbers],
            [f"image {i}" for i in numbers],
            title,
        )


def shares_of(metric: str, weights: str) -> dict[str, float]:
    """Metrics to measure, with their weights. Raises ValueError as `parse_mix`."""
    return parse_mix(weights) if metric == MIX else {metric: 1.0}


def scores_of_batch(
    batch: Batch,
    metrics: list[str],
    report_on: Callable[[list[str], GeneratedSet], EvaluationReport],
) -> dict[str, Scores]:
    """Scores of each metric.

    Args:
        report_on: evaluates pictures by metrics.
    """
    count = len(batch.images)

    def measured(metrics: list[str], targets: Tensor | None) -> list[Scores]:
        generated = generated_from_batches(batch.images, batch.references, targets, batch.prompts)
        rows = {row["image"]: row["values"] for row in report_on(metrics, generated).per_image}
        names = [generated.pictures.name(i) for i in range(count)]
        return [[rows.get(name, {}).get(metric) for name in names] for metric in metrics]

    return scores_of(metrics, measured, batch.references, batch.targets, count)


def scores_of(
    metrics: list[str],
    measured: Callable[[list[str], Tensor | None], list[Scores]],
    references: Tensor | None,
    targets: Tensor | None,
    count: int,
) -> dict[str, Scores]:
    """Scores of each metric; LPIPS without targets is the mean distance to the references."""
    if "lpips" not in metrics or targets is not None or references is None:
        return dict(zip(metrics, measured(metrics, targets), strict=True))
    others = [metric for metric in metrics if metric != "lpips"]
    found = dict(zip(others, measured(others, None), strict=True)) if others else {}
    distances = [
        measured(["lpips"], reference[None].expand(count, -1, -1, -1))[0]
        for reference in references
    ]
    found["lpips"] = [_mean(each) for each in zip(*distances, strict=True)]
    return found


def _mean(scores: Iterable[float | None]) -> float | None:
    """Mean of the known scores; None if none is known."""
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known else None


def parse_mix(text: str) -> dict[str, float]:
    """Weights written as "identity: 1, aesthetic: 0.5", one for each metric.

    Raises:
        ValueError: an unknown metric, or no positive number.
    """
    shares = {}
    for part in filter(None, (part.strip() for part in text.replace("\n", ",").split(","))):
        name, _, number = part.replace(":", " ").partition(" ")
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        if name not in PER_IMAGE or not (math.isfinite(share) and share > 0):
            raise ValueError(
                f"Got {part!r} in weights; expected a metric and a positive number, such as "
                f"'{WEIGHTS}'. Metrics: {', '.join(PER_IMAGE)}."
            )
        shares[name] = share
    if not shares:
        raise ValueError(f"Got no weights for metric = {MIX}; expected such as '{WEIGHTS}'.")
    return shares


def mixed(found: Mapping[str, Scores], shares: Mapping[str, float]) -> Scores:
    """Weighted mean of the metrics in standard scores over the batch, higher is better.

    A picture that one of the metrics has no value for has none. Scores that hardly differ count
    hardly: the spread is at least a hundredth of the largest.
    """
    count = len(next(iter(found.values())))
    total = [0.0] * count
    missing: set[int] = set()
    for metric, scores in found.items():
        known = [score for score in scores if score is not None]
        missing |= {i for i, score in enumerate(scores) if score is None}
        mean = sum(known) / max(1, len(known))
        spread = (sum((x - mean) ** 2 for x in known) / max(1, len(known))) ** 0.5
        spread = max(spread, _LEAST_SPREAD * max(map(abs, known), default=0.0))
        sign = -1 if metric in LOWER_IS_BETTER else 1
        for i, score in enumerate(scores):
            if score is not None and spread:
                total[i] += sign * shares[metric] * (score - mean) / spread
    weight = sum(shares[metric] for metric in found)
    return [None if i in missing else x / weight for i, x in enumerate(total)]


def prompts_of(text: str, count: int) -> str | list[str]:
    """A line for each picture, where there are as many; else one prompt for all."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines if len(lines) == count > 1 else text


def rank(scores: Scores, lower_is_better: bool) -> list[int]:
    """Indices, best first; equal ones in their order. Without a value: left out.

    Raises:
        ValueError: no picture has a value.
    """
    usable = {i: score for i, score in enumerate(scores) if score is not None}
    if not usable:
        raise ValueError(
            f"None of the {len(scores)} pictures can be scored: the metric has no value for any, "
            "as identity and copy_paste have none without a face. Choose another metric."
        )
    return sorted(usable, key=lambda i: usable[i] if lower_is_better else -usable[i])
