"""Time to execute Apply for the first time, and again when only `weight` changes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from comfy.model_patcher import ModelPatcher

from ..nodes.steering.key_values import LoadedAdapter
from ..nodes.steering.steer import Steering, steer
from ._models import plus_adapter, references, sdxl_unet
from ._timing import Quiet, Summary, interleaved, seconds, summarise


class ApplyResult(NamedTuple):
    """One line of the table, in seconds."""

    base: str
    references: int
    aggregation: str
    first: float
    again: Summary


def measure(
    sd15: tuple[ModelPatcher, LoadedAdapter], counts: Sequence[int], rounds: int, quiet: Quiet
) -> list[ApplyResult]:
    """All lines: the SD1.5 pair of the step benchmark, then SDXL with a half precision adapter."""
    sdxl = sdxl_unet()
    pairs = {"SD1.5": sd15, "SDXL": (sdxl, plus_adapter(sdxl, torch.float16))}
    runs: dict[tuple[str, int, str], Callable[[], float]] = {}
    first = {}
    for base, (model, adapter) in pairs.items():
        for count, aggregation in itertools.product(counts, ("concat", "mean")):
            name = (base, count, aggregation)
            case = (model, adapter, count, aggregation)
            first[name] = quiet.sample(lambda case=case: _weight_changes(*case)())
            runs[name] = _weight_changes(*case)
    samples = interleaved(runs, rounds, quiet)
    return [ApplyResult(*name, first[name], summarise(samples[name])) for name in runs]


def _weight_changes(
    model: ModelPatcher, loaded: LoadedAdapter, count: int, aggregation: str
) -> Callable[[], float]:
    """Each call steers with another weight and returns the seconds that it took."""
    embeds = references(count)
    weights = itertools.cycle((0.5, 0.6, 0.7, 0.8, 0.9, 1.0))

    def execute() -> float:
        weight = next(weights)
        return seconds(
            lambda: steer(model, loaded, embeds, Steering(weight=weight, aggregation=aggregation))
        )

    return execute
