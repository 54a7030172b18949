"""Pixels as numbers in 0..1, as ComfyUI's graphs hold them, and as bytes: the one rounding."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_bytes(image: Tensor) -> np.ndarray:
    """Numbers in 0..1 -> uint8 of the same shape, rounded down as ComfyUI's Save Image does.

    So whatever looks at a picture of a graph sees what it would see of the saved file.
    """
    return (255.0 * image.detach().cpu()).clamp(0, 255).to(torch.uint8).numpy()


def to_floats(pixels: Tensor | np.ndarray) -> Tensor:
    """uint8 -> float32 in 0..1 of the same shape, as ComfyUI's Load Image does."""
    return torch.as_tensor(pixels).float().div_(255)
