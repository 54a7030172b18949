"""Which metric needs which pictures through which network; every network sees a picture once."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from ..pictures.sources import Source
from .generated import Entry, GeneratedSet
from .pairs import PairSource

GENERATED, REAL, REFERENCES, TARGETS = "generated", "real", "references", "targets"
TARGET_PAIRS, DIVERSITY_PAIRS = "pairs with targets", "pairs of one prompt"
_GROUP_PAIRS = 45  # pairs of pictures of one identity and prompt: all of ten pictures
_PAIR_PIXELS = 1 << 19  # of a call of LPIPS, whose backbone keeps 2 KB for each

Pass = tuple[str, str]  # role of the network, source


@dataclass(frozen=True)
class Metric:
    """What a metric needs.

    Attributes:
        passes: (role, source) of all the features that it reads.
        prompts: whether it reads the prompts.
        per_image: it gives one value per picture; otherwise one per set of two or more.
        heads: further networks.
    """

    passes: tuple[Pass, ...]
    prompts: bool = False
    per_image: bool = False
    heads: tuple[str, ...] = ()


_FID = Metric((("inception", GENERATED), ("inception", REAL)))
_TEXT = Metric((("clip", GENERATED),), prompts=True, per_image=True)
METRICS: Mapping[str, Metric] = {
    "fid": _FID,
    "fid_infinity": _FID,
    "kid": _FID,
    "is": Metric((("inception", GENERATED),)),
    "cmmd": Metric((("cmmd_clip", GENERATED), ("cmmd_clip", REAL))),
    "precision": _FID,
    "recall": _FID,
    "image_alignment": Metric((("clip", GENERATED), ("clip", REFERENCES)), per_image=True),
    "text_alignment": _TEXT,
    "clip_score": _TEXT,
    "dino": Metric((("dino", GENERATED), ("dino", REFERENCES)), per_image=True),
    "lpips": Metric((("lpips", TARGET_PAIRS),), per_image=True),
    "lpips_diversity": Metric((("lpips", DIVERSITY_PAIRS),)),
    "identity": Metric((("face", GENERATED), ("face", REFERENCES)), per_image=True),
    "copy_paste": Metric(
        (("copy_paste", GENERATED), ("copy_paste", REFERENCES), ("copy_paste", TARGETS)),
        per_image=True,
    ),
    "aesthetic": Metric((("aesthetic_clip", GENERATED),), per_image=True, heads=("aesthetic",)),
}
PER_IMAGE = tuple(name for name, metric in METRICS.items() if metric.per_image)
LOWER_IS_BETTER = ("fid", "fid_infinity", "kid", "cmmd", "lpips", "copy_paste")
# From a statistics file instead of pictures.
BY_STATISTICS = ("fid", "fid_infinity")
# Compared with the real pictures where no references are given.
STAND_INS = ("image_alignment", "dino", "identity")
# What serves a role: the first of these that is given.
_SERVES = {
    "cmmd_clip": ("cmmd_clip", "clip"),
    "aesthetic_clip": ("aesthetic_clip", "clip"),
    "copy_paste": ("face", "clip", "dino"),
}


def served_by(role: str, networks: Mapping[str, Any]) -> str:
    """The role of the network that is given for it; the role itself where none is."""
    given = (name for name in _SERVES.get(role, (role,)) if networks.get(name) is not None)
    return next(given, role)


def check_metrics(metrics: Sequence[str]) -> tuple[str, ...]:
    """Without repetitions.

    Raises:
        ValueError: none, or an unknown one.
    """
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or not metrics:
        raise ValueError(
            f"Got the metrics {', '.join(unknown or metrics) or 'none'}; expected some of "
            f"{', '.join(METRICS)}."
        )
    return tuple(dict.fromkeys(metrics))


def parse_metrics(text: str) -> tuple[str, ...]:
    """Metrics separated by commas. Raises ValueError as `check_metrics`."""
    return check_metrics([name.strip() for name in text.split(",") if name.strip()])


def passes_of(
    metrics: Sequence[str],
    networks: Mapping[str, Any],
    sources: Mapping[str, Source],
    statistics: bool,
) -> list[Pass]:
    """All (role, source) that the metrics read, each once.

    Args:
        statistics: a file stands for the real pictures' statistics.

    Raises:
        ValueError: a network or source is missing.
    """
    passes: dict[Pass, None] = {}
    for name in metrics:
        metric = METRICS[name]
        for role in (*metric.heads, *(role for role, _ in metric.passes)):
            if networks.get(served_by(role, networks)) is None:
                wanted = " or ".join(_SERVES.get(role, (role,)))
                raise ValueError(
                    f"{name} needs a network for {wanted}; none is given. Give its weights, or "
                    "leave the metric out."
                )
        for role, source in metric.passes:
            if source == REAL and statistics and name in BY_STATISTICS:
                continue
            if source not in sources:
                if name == "copy_paste" and source == TARGETS:
                    continue  # it has a definition without
                raise ValueError(_MISSING[source].format(name=name))
            passes[served_by(role, networks), source] = None
    return list(passes)


_MISSING = {
    GENERATED: "{name} needs generated pictures.",
    REAL: (
        "{name} needs real pictures, and none are given (FID alone can do with a statistics "
        "file). Give a folder of them, or leave the metric out."
    ),
    REFERENCES: (
        "{name} needs the reference pictures, and none are given. Give a folder of them, name "
        "them in the manifest, or leave the metric out. (Without copy_paste, real pictures stand "
        "in for them.)"
    ),
    TARGET_PAIRS: (
        "{name} needs a target for the generated pictures, and none is given. Name them in the "
        "manifest, or leave the metric out."
    ),
    DIVERSITY_PAIRS: (
        "{name} needs two pictures of the same identity, prompt and conditions. Generate more "
        "than one, or leave the metric out."
    ),
}


def all_sources(
    metrics: Sequence[str], generated: GeneratedSet, real: Source | None, seed: int
) -> dict[str, Source]:
    """Those that are given, by name, pairs included; all processes get the same ones."""
    references = generated.references
    if references is None and "copy_paste" not in metrics:
        references = real  # but they cannot have been copied
    given = {REAL: real, REFERENCES: references, TARGETS: generated.targets}
    sources = {GENERATED: generated.pictures}
    sources |= {name: source for name, source in given.items() if source is not None}
    if "lpips" in metrics and generated.targets is not None:
        pairs = target_pairs(generated.entries)
        sources[TARGET_PAIRS] = PairSource(generated.pictures, generated.targets, pairs)
    if "lpips_diversity" in metrics:
        pairs = diversity_pairs(generated.entries, seed)
        if pairs:
            sources[DIVERSITY_PAIRS] = PairSource(generated.pictures, generated.pictures, pairs)
    return sources


def target_pairs(entries: Sequence[Entry]) -> list[tuple[int, int]]:
    """(picture, target) of those that have one."""
    return [(n, e.target) for n, e in enumerate(entries) if e.target is not None]


def diversity_pairs(entries: Sequence[Entry], seed: int) -> list[tuple[int, int]]:
    """Pairs of pictures of the same identity, prompt and conditions; at most 45 of a group."""
    groups: dict[tuple, list[int]] = {}
    for number, entry in enumerate(entries):
        key = (entry.identity, entry.prompt, tuple(sorted(entry.conditions.items(), key=str)))
        groups.setdefault(key, []).append(number)
    return [pair for i, group in enumerate(groups.values()) for pair in _some(group, seed + i)]


def _some(group: Sequence[int], seed: int) -> Iterator[tuple[int, int]]:
    count = len(group) * (len(group) - 1) // 2
    if count <= _GROUP_PAIRS:
        yield from combinations(group, 2)
        return
    chosen: set[tuple[int, int]] = set()
    draw = random.Random(seed)
    while len(chosen) < _GROUP_PAIRS:
        first, second = sorted(draw.sample(group, 2))
        chosen.add((first, second))
    yield from sorted(chosen)


class PairDistance:
    """LPIPS as a network over stacked pairs, uint8 [B, 6, H, W] -> {"distance": [B, 1]}."""

    outputs = {"distance": 1}

    def __init__(self, lpips: Any):
        self.name, self.weights, self.resize = lpips.name, lpips.weights, lpips.resize
        self._lpips = lpips

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        area = pixels.shape[2] * pixels.shape[3]
        parts = pixels.split(max(1, _PAIR_PIXELS // (2 * area)))
        distances = [self._lpips.distance(part[:, :3], part[:, 3:]) for part in parts]
        return {"distance": torch.cat(distances).reshape(-1, 1)}
