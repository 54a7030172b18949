"""Small things to evaluate: folders of drawn pictures, and networks that take microseconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from multi_ipadapter.evaluation.request import Request
from multi_ipadapter.pictures.sources import TensorSource


class Network:
    """A feature network: average colours of a 4 x 4 grid through seeded matrices.

    `calls` and `seen` count batches and pictures.
    """

    resize = "grid"

    def __init__(self, name: str = "tiny", seed: int = 0, **outputs: int):
        self.name, self.weights = name, f"{seed:064x}"
        self.outputs = outputs or {"pool": 6, "logits": 5}
        random = torch.Generator().manual_seed(seed)
        self._matrices = {
            key: torch.randn(48, width, generator=random) for key, width in self.outputs.items()
        }
        self.calls = self.seen = 0

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        assert pixels.dtype == torch.uint8 and pixels.shape[1] == 3
        self.calls += 1
        self.seen += len(pixels)
        grid = F.adaptive_avg_pool2d(pixels.float() / 255, 4).flatten(1)
        return {key: grid @ matrix for key, matrix in self._matrices.items()}


class TextNetwork(Network):
    """With a text side: letters are counted. `read` lists what was read."""

    def __init__(self, name: str = "clip-tiny", seed: int = 1):
        super().__init__(name, seed, image=8)
        self.read: list[str] = []

    def text(self, texts: Sequence[str]) -> Tensor:
        self.read += texts
        rows = [[text.count(letter) + 0.5 for letter in "abdeino*"] for text in texts]
        return torch.tensor(rows)


class Faces(Network):
    """A recogniser that finds a face where the picture is not dark."""

    def __init__(self):
        super().__init__("face-tiny", 2, embedding=7, found=1)

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        found = (pixels.float().mean((1, 2, 3)) > 30).float()[:, None]
        embedding = F.normalize(super().__call__(pixels)["embedding"]) * found
        return {"embedding": embedding, "found": found}


class Distance:
    """Stands where LPIPS does: mean absolute difference in 0..1."""

    name, weights, resize = "lpips-tiny", "d" * 64, "none"

    def __init__(self):
        self.seen = 0

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        self.seen += len(a)
        return (a.float() - b.float()).abs().mean((1, 2, 3)) / 255


class Head:
    """Stands where an aesthetic head does."""

    name, weights, width = "aesthetic-tiny", "e" * 64, 8

    def score(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=1).sum(1)


def networks() -> dict[str, object]:
    """One for every role."""
    return {
        "inception": Network(),
        "clip": TextNetwork(),
        "dino": Network("dino-tiny", 3, cls=9),
        "face": Faces(),
        "lpips": Distance(),
        "aesthetic": Head(),
    }


def drawn(seed: int, size: tuple[int, int] = (24, 20), dark: bool = False) -> np.ndarray:
    """uint8 [height, width, 3]; `size` is width and height."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 20 if dark else 255, (5, 5, 3)).astype(np.uint8)
    return np.array(Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR))


def write_pictures(
    folder: Path, count: int, seed: int = 0, suffix: str = ".png", size: tuple[int, int] = (24, 20)
) -> Path:
    """Pictures 000, 001, ... in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture = Image.fromarray(drawn(seed * 10_000 + number, size))
        picture.save(folder / f"{number:03}{suffix}")
    return folder


def batch(count, seed=0, dark=()):
    """IMAGE [count, 20, 24, 3]."""
    pictures = [torch.from_numpy(drawn(seed * 1000 + i, dark=i in dark)) for i in range(count)]
    return (torch.stack(pictures).float() + 0.5) / 255


def pixels(images):
    source = TensorSource(images)
    return torch.stack([source.load(i).pixels for i in range(len(source))])


def ask(metrics, generated, real=None, **options):
    options = {"fid_minimum": 2, "splits": 2, "batch_size": 4} | options
    return Request(metrics, generated, real, **options)


def value(report, metric, point=0):
    return report.points[point].values[metric]
