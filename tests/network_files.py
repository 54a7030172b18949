"""Weights files with generated numbers, in the layouts in which the real ones are published."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pictures(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """uint8 [count, 3, height, width]: smooth colours that differ, with some grain."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 7, 7, generator=generator) * 255
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    grain = 20 * torch.randn(count, 3, height, width, generator=generator)
    return (smooth + grain).clamp(0, 255).to(torch.uint8)


def as_array(picture: Tensor) -> np.ndarray:
    """uint8 [3, H, W] -> [H, W, 3]."""
    return picture.permute(1, 2, 0).contiguous().numpy()


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights that neither blow up nor fade through the layers, so that pictures differ."""
    generator = torch.Generator().manual_seed(seed)

    def draw(shape, deviation: float, mean: float = 0.0) -> Tensor:
        return mean + deviation * torch.randn(shape, generator=generator)

    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            inputs = part.weight[0].numel()
            part.weight.data = draw(part.weight.shape, math.sqrt(2 / inputs))
            if part.bias is not None:
                part.bias.data = draw(part.bias.shape, 0.1)
        elif isinstance(part, nn.BatchNorm2d):
            part.weight.data = draw(part.weight.shape, 0.1, 1.0)
            part.bias.data = draw(part.bias.shape, 0.1)
            part.running_mean.data = draw(part.running_mean.shape, 0.1)
            part.running_var.data = draw(part.running_var.shape, 0.1, 1.0).abs() + 0.1
    return module.eval()


class Payload:
    """Makes a folder when it is unpickled by a reader that runs what a file asks for."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return Path.mkdir, (self.folder,)
