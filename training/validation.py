"""Does the adapter use its references? Loss on held-out identities, matched, without and shuffled.

The same targets, noise and timesteps every time, so that curves can be compared; differences are
paired by identity.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from ..diffusion.backbone import Backbone
from ..diffusion.objective import Noise, add_noise, prediction_target, row_losses
from ..models.adapter import MultiIPAdapter
from ..models.aggregation import Aggregated
from ..runs import streams
from .batch import LATENTS, FeatureSource, pad, read_rows, with_null_images
from .config import TrainingConfig
from .sampling import Identities

TIMESTEPS = 8  # per identity, spread over the schedule


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval by Student's t over identities."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Tensor) -> Interval:
        """[I] -> interval."""
        mean, count = values.mean().item(), len(values)
        if count < 2:
            return cls(mean, -math.inf, math.inf)
        half = float(stdtrit(count - 1, 0.975)) * values.std().item() / math.sqrt(count)
        return cls(mean, mean - half, mean + half)


@dataclass(frozen=True)
class ValidationReport:
    """Losses, their paired differences, and |image term| / |text term| per layer.

    `gain` is none - matched, `gain_over_shuffled` is shuffled - matched: positive when the adapter
    uses its references, and uses whose they are.
    """

    step: int
    identities: int
    matched: Interval
    none: Interval
    shuffled: Interval
    gain: Interval
    gain_over_shuffled: Interval
    attention_ratio: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def __str__(self) -> str:
        gain, over = self.gain, self.gain_over_shuffled
        return (
            f"validation at {self.step}  matched {self.matched.mean:.5f}  "
            f"none - matched {gain.mean:+.5f} [{gain.low:+.5f}, {gain.high:+.5f}]  "
            f"shuffled - matched {over.mean:+.5f} [{over.low:+.5f}, {over.high:+.5f}]"
        )


@dataclass(frozen=True)
class Case:
    """Picture numbers: one that is restored, and its references."""

    target: int
    references: tuple[int, ...]


class Validator:
    """Fixed targets, references and noise over held-out identities.

    Raises:
        ValueError: fewer than two held-out identities have two pictures.
    """

    def __init__(self, backbone: Backbone, source: FeatureSource, config: TrainingConfig):
        self.backbone, self.source, self.config = backbone, source, config
        self.cases = _cases(source.index, config)
        self._starts = [group.start for group in _groups(source.index)]
        if len(self.cases) < 2:
            raise ValueError(
                f"Got {len(self.cases)} held-out identities with two or more pictures; expected at "
                "least 2 to compare matched with shuffled references. Hold more identities out, "
                "or set validate_every = 0."
            )

    @torch.no_grad()
    def __call__(
        self,
        adapter: MultiIPAdapter,
        step: int = 0,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> ValidationReport | None:
        """None when stopped."""
        losses: dict[str, list[Tensor]] = {"matched": [], "none": [], "shuffled": []}
        ratios = []
        together = max(1, self.config.batch_size // TIMESTEPS)
        for begin in range(0, len(self.cases), together):
            if should_stop():
                return None
            chosen = range(begin, min(begin + together, len(self.cases)))
            per_case, ratio = read_rows(
                self.source, self.cases, partial(self._losses, adapter, chosen)
            )
            ratios.append(ratio)
            for name, values in per_case.items():
                losses[name].append(values)
        joined = {name: torch.cat(values).double().cpu() for name, values in losses.items()}
        return ValidationReport(
            step,
            len(self.cases),
            matched=Interval.of(joined["matched"]),
            none=Interval.of(joined["none"]),
            shuffled=Interval.of(joined["shuffled"]),
            gain=Interval.of(joined["none"] - joined["matched"]),
            gain_over_shuffled=Interval.of(joined["shuffled"] - joined["matched"]),
            attention_ratio=tuple(torch.stack(ratios).mean(0).tolist()),
        )

    def _losses(
        self, adapter: MultiIPAdapter, chosen: range, all_cases: Sequence[Case]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Per kind [cases], each the mean over the timesteps; and the attention ratio [layers]."""
        cases = [all_cases[i] for i in chosen]
        others = [self._other(all_cases, i) for i in chosen]
        own = [case.references for case in cases]
        layers = {
            "matched": self._layers(adapter, own, False),
            "none": self._layers(adapter, own, True),
            "shuffled": self._layers(adapter, [case.references for case in others], False),
        }
        latents = self.source.fetch([case.target for case in cases], [LATENTS])[LATENTS]
        latents = latents.float().to(self.backbone.device)
        text = self.backbone.encode_text([self.source.caption(case.target) for case in cases])
        noise = self._noise(chosen, latents.shape)
        owner = torch.arange(len(cases), device=latents.device).repeat_interleave(TIMESTEPS)
        losses: dict[str, list[Tensor]] = {name: [] for name in layers}
        ratios = []
        for begin in range(0, len(owner), self.config.batch_size):
            rows = slice(begin, begin + self.config.batch_size)
            part, ratio = self._part_losses(
                latents[owner[rows]],
                Noise(*(x[rows] for x in noise)),
                {name: x[owner[rows]] for name, x in text.items()},
                {name: _rows_of(each, owner[rows]) for name, each in layers.items()},
            )
            ratios.append(ratio)
            for name, values in part.items():
                losses[name].append(values)
        mean = {k: torch.cat(v).unflatten(0, (-1, TIMESTEPS)).mean(1) for k, v in losses.items()}
        return mean, torch.stack(ratios).mean(0)

    def _other(self, cases: Sequence[Case], number: int) -> Case:
        """The next case of another identity; one may stand in for its neighbour's bad pictures."""
        following = [*cases[number + 1 :], *cases[:number]]
        own = bisect(self._starts, cases[number].target)
        return next((c for c in following if bisect(self._starts, c.target) != own), following[0])

    def _part_losses(
        self,
        latents: Tensor,
        noise: Noise,
        text: Mapping[str, Tensor],
        layers: Mapping[str, Sequence[Aggregated]],
    ) -> tuple[dict[str, Tensor], Tensor]:
        """No more rows at a time than in training; per kind [rows], and the attention ratio."""
        schedule = self.backbone.alphas_cumprod
        noisy = add_noise(latents, noise, schedule)
        target = prediction_target(self.backbone.prediction, latents, noise, schedule)
        losses = {}
        for name, each in layers.items():
            predicted = self.backbone.denoise(noisy, noise.timesteps, text, each)
            losses[name] = row_losses(predicted, target)
        ratio = self.backbone.attention_ratio(noisy, noise.timesteps, text, layers["matched"])
        return losses, ratio.cpu()

    def _layers(
        self, adapter: MultiIPAdapter, references: Sequence[Sequence[int]], drop: bool
    ) -> list[Aggregated]:
        names = adapter.config.projection.inputs
        features, present = pad(self.source, references, names)
        device = self.backbone.device
        features = {name: x.to(device) for name, x in features.items()}
        present = present.to(device)
        dropped = torch.full((len(present),), drop, device=device)
        features, present = with_null_images(
            features, present, dropped, self.backbone.null_features, adapter.config.slots
        )
        return adapter.aggregate(adapter.project(features), mask=present)

    def _noise(self, chosen: range, shape: tuple[int, ...]) -> Noise:
        count = len(self.backbone.alphas_cumprod)
        noise = []
        for case in chosen:
            random = streams.case_noise(self.config.seed, case)
            noise.append(torch.randn(TIMESTEPS, *shape[1:], generator=random))
        steps = torch.linspace(0, count - 1, TIMESTEPS + 2)[1:-1].long().repeat(len(chosen))
        device = self.backbone.device
        return Noise(torch.cat(noise).to(device), steps.to(device))


def _rows_of(layers: Sequence[Aggregated], rows: Tensor) -> list[Aggregated]:
    return [
        Aggregated(keys[rows], values[rows], None if bias is None else bias[rows])
        for keys, values, bias in layers
    ]


def _groups(index: Identities) -> list[range]:
    return [index.pictures_of(i) for i in range(len(index.identities))]


def _cases(index: Identities, config: TrainingConfig) -> list[Case]:
    usable = [group for group in _groups(index) if len(group) >= 2]
    random = streams.numbers(config.seed, streams.VALIDATION)
    most = config.validation_references
    most = most if config.slots == 1 else min(most, config.slots)
    order = random.permutation(len(usable))[: config.validation_identities]
    cases = []
    for number in sorted(order):
        numbers = random.permutation(np.arange(usable[number].start, usable[number].stop))
        target, *others = (int(n) for n in numbers[: 1 + most])
        cases.append(Case(target, tuple(others)))
    return cases
