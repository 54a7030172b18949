"""Does the adapter use its references? Loss on held-out identities, matched, without and shuffled.

The same targets, noise and timesteps every time, so that curves can be compared; differences are
paired by identity.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..models.adapter import MultiIPAdapter
from .backbone import Backbone
from .batch import LATENTS, FeatureSource, pad, with_null_images
from .config import TrainingConfig
from .objective import Noise, add_noise, prediction_target, row_losses

_STREAM = 3
TIMESTEPS = 8  # per identity, spread over the schedule


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval (normal approximation over identities)."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Tensor) -> Interval:
        """[I] -> interval."""
        mean = values.mean().item()
        half = 1.96 * values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.inf
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


@dataclass(frozen=True)
class _Case:
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
        rows = max(1, self.config.batch_size // TIMESTEPS) * TIMESTEPS
        for begin in range(0, len(self.cases), rows // TIMESTEPS):
            if should_stop():
                return None
            chosen = range(begin, min(begin + rows // TIMESTEPS, len(self.cases)))
            per_case, ratio = self._losses(adapter, chosen)
            ratios.append(ratio)
            for name, values in per_case.items():
                losses[name].append(values)
        joined = {name: torch.cat(values).double().cpu() for name, values in losses.items()}
        return ValidationReport(
            step,
            len(self.cases),
            *(Interval.of(joined[name]) for name in ("matched", "none", "shuffled")),
            gain=Interval.of(joined["none"] - joined["matched"]),
            gain_over_shuffled=Interval.of(joined["shuffled"] - joined["matched"]),
            attention_ratio=tuple(torch.stack(ratios).mean(0).tolist()),
        )

    def _losses(self, adapter: MultiIPAdapter, chosen: range) -> tuple[dict[str, Tensor], Tensor]:
        """Per kind [cases], each the mean over the timesteps; and the attention ratio [layers]."""
        device, schedule = self.backbone.device, self.backbone.alphas_cumprod
        cases = [self.cases[i] for i in chosen]
        latents = self.source.fetch([case.target for case in cases], [LATENTS])[LATENTS]
        latents = latents.float().to(device).repeat_interleave(TIMESTEPS, 0)
        noise = self._noise(chosen, latents.shape)
        noisy = add_noise(latents, noise, schedule)
        target = prediction_target(self.backbone.prediction, latents, noise, schedule)
        captions = [self.source.caption(case.target) for case in cases for _ in range(TIMESTEPS)]
        text = self.backbone.encode_text(captions)
        others = [self.cases[(i + 1) % len(self.cases)] for i in chosen]
        conditions = {
            "matched": ([case.references for case in cases], False),
            "none": ([case.references for case in cases], True),
            "shuffled": ([case.references for case in others], False),
        }
        result, ratio = {}, torch.zeros(0)
        for name, (references, drop) in conditions.items():
            layers = self._layers(adapter, references, drop)
            predicted = self.backbone.denoise(noisy, noise.timesteps, text, layers)
            rows = row_losses(predicted, target)
            result[name] = rows.unflatten(0, (-1, TIMESTEPS)).mean(1)
            if name == "matched":
                ratio = self.backbone.attention_ratio(noisy, noise.timesteps, text, layers).cpu()
        return result, ratio

    def _layers(self, adapter: MultiIPAdapter, references, drop: bool):
        names = adapter.config.projection.inputs
        features, present = pad(self.source, references, names)
        device = self.backbone.device
        features = {name: x.to(device) for name, x in features.items()}
        present = present.to(device)
        dropped = torch.full((len(present),), drop, device=device)
        features, present = with_null_images(
            features, present, dropped, self.backbone.null_features, adapter.config.slots
        )
        tokens = adapter.project(features).repeat_interleave(TIMESTEPS, 0)
        return adapter.aggregate(tokens, mask=present.repeat_interleave(TIMESTEPS, 0))

    def _noise(self, chosen: range, shape: tuple[int, ...]) -> Noise:
        count = len(self.backbone.alphas_cumprod)
        noise = []
        for case in chosen:
            random = torch.Generator().manual_seed(self.config.seed * 1_000_003 + case)
            noise.append(torch.randn(TIMESTEPS, *shape[1:], generator=random))
        steps = torch.linspace(0, count - 1, TIMESTEPS + 2)[1:-1].long().repeat(len(chosen))
        device = self.backbone.device
        return Noise(torch.cat(noise).to(device), steps.to(device))


def _cases(index, config: TrainingConfig) -> list[_Case]:
    groups = [index.pictures_of(i) for i in range(len(index.identities))]
    usable = [group for group in groups if len(group) >= 2]
    random = np.random.Generator(np.random.Philox(key=[config.seed, _STREAM]))
    most = config.validation_references
    most = most if config.slots == 1 else min(most, config.slots)
    order = random.permutation(len(usable))[: config.validation_identities]
    cases = []
    for number in sorted(order):
        numbers = random.permutation(np.arange(usable[number].start, usable[number].stop))
        target, *others = (int(n) for n in numbers[: 1 + most])
        cases.append(_Case(target, tuple(others)))
    return cases
