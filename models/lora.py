"""The LoRA that FaceID files carry beside the adapter: low-rank changes of attention weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

_NAME = re.compile(r"^ip_adapter\.(\d+)\.to_(q|k|v|out)_lora\.(down|up)\.weight$")


class LowRank(NamedTuple):
    """A change up @ down of one weight matrix [out, in]: up [out, rank], down [rank, in]."""

    up: Tensor
    down: Tensor


# (attention, projection) -> change. Attentions are counted as in the files: 2 l is the
# self-attention and 2 l + 1 the text cross-attention of layer l; projections are q, k, v, out.
Lora = Mapping[tuple[int, str], LowRank]


def is_lora(key: str) -> bool:
    """Whether a tensor of a file belongs to the LoRA."""
    return "_lora." in key


def fingerprint(lora: Lora) -> str:
    """The same for the same matrices, wherever they were read from."""
    digest = hashlib.sha256()
    for place in sorted(lora):
        for matrix in lora[place]:
            digest.update(repr((place, tuple(matrix.shape), matrix.dtype)).encode())
            digest.update(matrix.contiguous().flatten().view(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()


def read_lora(tensors: Mapping[str, Tensor], num_layers: int) -> dict[tuple[int, str], LowRank]:
    """The LoRA among a file's normalised tensors; empty when it has none.

    Raises:
        ValueError: half of a pair, shapes that do not fit, or a layer that the adapter has not.
    """
    halves: dict[tuple[int, str], dict[str, Tensor]] = {}
    for key in filter(is_lora, tensors):
        match = _NAME.match(key)
        if not match or int(match[1]) >= 2 * num_layers:
            raise ValueError(
                f"{key} is no LoRA tensor that an adapter of {num_layers} layers can have. The "
                "file is damaged or of an unknown kind. Choose another file."
            )
        halves.setdefault((int(match[1]), match[2]), {})[match[3]] = tensors[key]
    return {place: _pair(place, halves[place]) for place in sorted(halves)}


def _pair(place: tuple[int, str], half: Mapping[str, Tensor]) -> LowRank:
    name = f"ip_adapter.{place[0]}.to_{place[1]}_lora"
    if len(half) < 2:
        raise ValueError(
            f"{name} has only its {next(iter(half))} half. The file is incomplete; download it "
            "again."
        )
    up, down = half["up"], half["down"]
    matrices = up.ndim == down.ndim == 2 and up.shape[1] == down.shape[0]
    if not matrices or not (up.is_floating_point() and down.is_floating_point()):
        raise ValueError(
            f"{name} has up {tuple(up.shape)} {up.dtype} and down {tuple(down.shape)} "
            f"{down.dtype}; expected numbers [out, rank] and [rank, in]. The file is damaged; "
            "download it again."
        )
    return LowRank(up, down)


def lora_tensors(lora: Lora) -> dict[str, Tensor]:
    """Back to the names of the files."""
    return {
        f"ip_adapter.{number}.to_{name}_lora.{end}.weight": getattr(pair, end)
        for (number, name), pair in lora.items()
        for end in ("down", "up")
    }
