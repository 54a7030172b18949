"""Features encoded when a batch asks for them: training without a cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .batch import MASK
from .features import Encode, encode_pictures
from .records import PictureIndex, Skipped


class OnlineSource:
    """Implements `batch.FeatureSource`.

    A picture that cannot be read is replaced by the next one of its identity, and listed in
    `skipped`.
    """

    def __init__(
        self,
        index: PictureIndex,
        encode: Encode,
        size: int,
        fit: str = "crop",
        batch_size: int = 16,
    ):
        self.index = index
        self.skipped: list[Skipped] = []
        self._encode, self._size, self._fit, self._batch_size = encode, size, fit, batch_size
        self._instead: dict[int, int] = {}

    def of(self, index: PictureIndex) -> OnlineSource:
        """The same for a part of the dataset."""
        return OnlineSource(index, self._encode, self._size, self._fit, self._batch_size)

    def caption(self, number: int) -> str:
        """Caption of a picture."""
        return self.index.caption(self._instead.get(number, number))

    def fetch(self, numbers: Sequence[int], names: Sequence[str]) -> dict[str, Tensor]:
        """[len(numbers), ...] each, on the encoders' device.

        Raises:
            ValueError: an identity without a readable picture.
        """
        with torch.inference_mode(False):
            rows: dict[int, dict[str, Tensor]] = {}
            while missing := sorted({self._now(n) for n in numbers} - rows.keys()):
                self._fill(rows, missing, names)
            return {
                name: torch.stack([rows[self._now(n)][name] for n in numbers]) for name in names
            }

    def _now(self, number: int) -> int:
        return self._instead.get(number, number)

    def _fill(self, rows: dict, missing: list[int], names: Sequence[str]) -> None:
        arguments = (self._encode, self._size, self._fit, self._batch_size)
        for encoded in encode_pictures(self.index, missing, *arguments, names):
            for i, number in enumerate(encoded.numbers):
                tensors = {**encoded.features, MASK: encoded.masks}
                rows[number] = {name: tensors[name][i].clone() for name in names}
            for number, reason in encoded.bad.items():
                self._replace(number, reason)

    def _replace(self, number: int, reason: str) -> None:
        self.skipped.append(Skipped(self.index.name(number), reason))
        bad = set(self._instead) | {number}
        identity = self.index.identity_of(number)
        left = [n for n in self.index.pictures_of(identity) if n not in bad]
        if not left:
            raise ValueError(
                f"No picture of {self.index.identities[identity]} can be read: {reason} Remove "
                "this identity, or look the dataset through before training."
            )
        following = [n for n in left if n > number] or left
        for source, target in list(self._instead.items()):
            if target == number:
                self._instead[source] = following[0]
        self._instead[number] = following[0]
