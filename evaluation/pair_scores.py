"""Pictures in pairs -> how alike they are: cosines of features, or LPIPS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .resize import resize_to

# The metric of an evaluation whose network compares two pictures.
PAIR_METRICS: Mapping[str, str] = {
    "clip": "image_alignment",
    "dino": "dino",
    "identity": "identity",
    "lpips": "lpips",
}
_OUTPUTS = {"clip": "image", "dino": "cls"}
_BATCH = 16


class PairScorer:
    """Compares pictures by networks on a device.

    Args:
        networks: by role.
        check: called between two batches; it raises to stop.
    """

    def __init__(
        self, networks: Mapping[str, Any], device: torch.device, check: Callable[[], object]
    ):
        self._networks, self._device, self._check = networks, device, check

    def __call__(self, metric: str, first: Tensor, second: Tensor) -> Tensor:
        """[B] float64 of two times uint8 [B, 3, H, W], or the second of one picture; NaN where
        there is none."""
        if metric == "lpips":
            return self._distances(first, second)
        network = self._networks["face" if metric == "identity" else metric]
        a, b = self._features(network, first), self._features(network, second)
        if metric != "identity":
            return F.cosine_similarity(a[_OUTPUTS[metric]], b[_OUTPUTS[metric]], dim=1)
        cosines = (a["embedding"] * b["embedding"]).sum(1)  # of unit length
        return torch.where((a["found"] * b["found"]).flatten() > 0, cosines, torch.nan)

    def _features(self, network: Any, pixels: Tensor) -> dict[str, Tensor]:
        """All outputs of a network, float64 on the CPU."""
        parts = []
        for batch in pixels.split(_BATCH):
            self._check()
            found = network(batch.to(self._device))
            parts.append({name: x.cpu().double() for name, x in found.items()})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _distances(self, first: Tensor, second: Tensor) -> Tensor:
        """LPIPS; the second picture takes the size of the first."""
        if second.shape[2:] != first.shape[2:]:
            second = resize_to(second, (first.shape[2], first.shape[3]))
        distances = []
        for number in range(len(first)):
            self._check()
            other = second[number if len(second) > 1 else 0]
            pair = (picture[None].to(self._device) for picture in (first[number], other))
            distances.append(self._networks["lpips"].distance(*pair).cpu())
        return torch.cat(distances).double()


def mean_of(scores: Sequence[float]) -> float:
    """Over the pairs that have a score; NaN where none has."""
    known = _known(scores)
    return sum(known) / len(known) if known else float("nan")


def text_of_pairs(metric: str, scores: Sequence[float]) -> str:
    """The mean, and each pair."""
    head = f"{metric}: mean {mean_of(scores):.4f} of {len(_known(scores))} pairs"
    return "\n".join([head, *(f"{i}: {score:.4f}" for i, score in enumerate(scores))])


def _known(scores: Sequence[float]) -> list[float]:
    return [score for score in scores if score == score]
