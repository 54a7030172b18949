"""Features encoded when a batch asks for them: training without a cache."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from ..files.folder import Skipped
from ..pictures.index import PictureIndex
from .batch import MASK, UnreadableError
from .encoding import BATCH, Encode, encode_pictures
from .sampling import R, without_bad


class OnlineSource:
    """Implements `batch.FeatureSource`; the parts that `of` gives share what is known of bad
    pictures."""

    def __init__(
        self,
        index: PictureIndex,
        encode: Encode,
        size: int,
        fit: str = "crop",
        batch_size: int = BATCH,
    ):
        self.index = index
        self._encode, self._size, self._fit, self._batch_size = encode, size, fit, batch_size
        self._bad: dict[int, str] = {}  # record in the store -> reason

    @property
    def skipped(self) -> list[Skipped]:
        """Pictures that could not be read so far."""
        return [Skipped(self.index.store.name(r), why) for r, why in list(self._bad.items())]

    def of(self, index: PictureIndex) -> OnlineSource:
        """The same for a part of the dataset."""
        part = copy.copy(self)
        part.index = index
        return part

    def caption(self, number: int) -> str:
        """Caption of a picture."""
        return self.index.caption(number)

    def readable(self, rows: Sequence[R]) -> list[R]:
        """Rows without the pictures in `skipped`, see `sampling.without_bad`."""
        return [without_bad(row, self.index, self._is_bad) for row in rows]

    def fetch(self, numbers: Sequence[int], names: Sequence[str]) -> dict[str, Tensor]:
        """[len(numbers), ...] each, on the encoders' device.

        Raises:
            UnreadableError: some cannot be read; they are in `skipped` now.
        """
        rows: dict[int, dict[str, Tensor]] = {}
        bad: dict[int, str] = {}
        arguments = (self._encode, self._size, self._fit, self._batch_size)
        with torch.inference_mode(False):
            for encoded in encode_pictures(self.index, sorted(set(numbers)), *arguments, names):
                bad |= encoded.bad
                tensors = {**encoded.features, MASK: encoded.masks}
                for i, number in enumerate(encoded.numbers):
                    rows[number] = {name: tensors[name][i] for name in names}
            if bad:
                self._bad |= {int(self.index.records[n]): reason for n, reason in bad.items()}
                raise UnreadableError(" ".join(bad.values()))
            return {name: torch.stack([rows[n][name] for n in numbers]) for name in names}

    def _is_bad(self, number: int) -> bool:
        return int(self.index.records[number]) in self._bad
