"""What the benchmark of evaluation scores: picture files, and FID-Inception of random weights."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..evaluation.networks.inception import Inception, InceptionModule
from ..pictures.sources import ListSource, Picture

PIXELS = 512


def draw_pictures(folder: Path, count: int) -> list[Path]:
    """PNG files of smooth colours with grain, which pack about as badly as photos."""
    folder.mkdir(parents=True, exist_ok=True)
    random = torch.Generator().manual_seed(0)
    paths = []
    for number in range(count):
        coarse = torch.rand(1, 3, 9, 9, generator=random) * 255
        smooth = nn.functional.interpolate(coarse, (PIXELS, PIXELS), mode="bicubic")[0]
        grain = 6 * torch.randn(3, PIXELS, PIXELS, generator=random)
        pixels = (smooth + grain).clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
        paths.append(folder / f"{number:04d}.png")
        Image.fromarray(np.ascontiguousarray(pixels.numpy())).save(paths[-1])
    return paths


def random_inception(device: torch.device) -> Inception:
    """FID-Inception whose weights keep the size of what passes through."""
    module = InceptionModule()
    random = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            scale = math.sqrt(2 / part.weight[0].numel())
            part.weight.data = scale * torch.randn(part.weight.shape, generator=random)
    return Inception(module.to(device).eval(), "random", "torch-fidelity")


class Repeated(ListSource):
    """More pictures than files: each file over and over, every time as a picture of its own."""

    def __init__(self, paths: list[Path], count: int):
        super().__init__(paths)
        self._count = count

    def __len__(self) -> int:
        return self._count

    def name(self, number: int) -> str:
        return f"picture {number}"

    def load(self, number: int) -> Picture:
        return super().load(number % len(self._paths))

    def fingerprint(self, number: int) -> str:
        return f"{number:032d}"
