"""Image encoders -> fingerprints, by which a score knows the encoder that conditioned its pictures.

The same weights come as a whole CLIP model, as its vision tower alone and as ComfyUI's
CLIP_VISION, in float32 and in float16; all of these have one fingerprint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..files.tensors import read_tensors

_TOWER, _PROJECTION = "vision_model.", "visual_projection.weight"


def vision_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of the vision tower's values as float16, in the order of their names.

    Counted is what lies below "vision_model.", whatever stands before it; where nothing does, as
    in DINO, all tensors count. Projections and texts do not: encoders that differ in these alone
    see the same.

    Args:
        tensors: of a file or a `state_dict`.

    Returns:
        64 hexadecimal digits.
    """
    counted = {k: v for k, v in tensors.items() if v.is_floating_point() and k != _PROJECTION}
    tower = {k.rpartition(_TOWER)[2]: v for k, v in counted.items() if _TOWER in k}
    digest = hashlib.sha256()
    for name, tensor in sorted((tower or counted).items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        values = tensor.detach().to("cpu", torch.float16).contiguous()
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


def file_fingerprint(path: str | Path) -> str:
    """`vision_fingerprint` of a file, which is read without running anything in it.

    Raises:
        ValueError: damaged, or no file of tensors.
        FileNotFoundError: there is no such file.
    """
    tensors, _ = read_tensors(path)
    alone = {k: v for k, v in tensors.items() if isinstance(v, Tensor)}
    if not alone:
        raise ValueError(f"{Path(path).name} holds no tensors; choose the image encoder's file.")
    return vision_fingerprint(alone)
