"""Two sources of pictures -> pairs, for networks that compare two pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..files.folder import Skipped
from ..pictures.decode import BadPictureError
from ..pictures.sources import Picture, Source, digest_of
from .resize import resize_to


class PairSource:
    """Pairs of pictures, stacked: uint8 [6, H, W]; the second takes the size of the first.

    Attributes:
        smallest: least pixels on each side of both, below which the network cannot compare them.
    """

    smallest = 1

    def __init__(self, first: Source, second: Source, pairs: Sequence[tuple[int, int]]):
        self.first, self.second, self.pairs = first, second, list(pairs)
        self.skipped: list[Skipped] = []

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, number: int) -> str:
        a, b = self.pairs[number]
        return f"{self.first.name(a)} and {self.second.name(b)}"

    def load(self, number: int) -> Picture:
        a, b = self.pairs[number]
        first, second = self.load_one(self.first, a), self.load_one(self.second, b).pixels
        _, height, width = first.pixels.shape
        if second.shape[1:] != (height, width):
            second = resize_to(second[None], (height, width))[0]
        return Picture(torch.cat([first.pixels, second]), first.format)

    def load_one(self, source: Source, number: int) -> Picture:
        """One picture of a pair. Raises BadPictureError, also if it is too small."""
        picture = source.load(number)
        height, width = picture.pixels.shape[1:]
        if min(height, width) < self.smallest:
            raise BadPictureError(
                f"{source.name(number)}: is {width}x{height}; LPIPS compares pictures of at least "
                f"{self.smallest} pixels on each side. Enlarge it."
            )
        return picture

    def fingerprint(self, number: int) -> str:
        a, b = self.pairs[number]
        return digest_of(f"{self.first.fingerprint(a)} {self.second.fingerprint(b)}".encode())
