"""Rows of picture numbers -> one batch of tensors, references padded and masked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ..files.folder import Skipped
from ..pictures.index import PictureIndex
from .sampling import Identities, R, Row

LATENTS, MASK = "latents", "mask"
T = TypeVar("T")


class UnreadableError(ValueError):
    """Pictures that cannot be read; the source has noted which, see `read_rows`."""


class FeatureSource(Protocol):
    """Cached or freshly encoded tensors of pictures, by picture number."""

    @property
    def index(self) -> Identities:
        """Whose pictures they are."""

    def fetch(self, numbers: Sequence[int], names: Sequence[str]) -> dict[str, Tensor]:
        """[len(numbers), ...] each.

        Raises:
            UnreadableError: some of them cannot be read, which was not known before.
        """

    def readable(self, rows: Sequence[R]) -> list[R]:
        """The rows (target, references) without pictures that cannot be read, as far as is known;
        no reference becomes its row's target."""

    def caption(self, number: int) -> str:
        """Caption of a picture."""


class PictureSource(FeatureSource, Protocol):
    """The same, of pictures of a dataset."""

    @property
    def index(self) -> PictureIndex:
        """The pictures that it has."""

    @property
    def skipped(self) -> Sequence[Skipped]:
        """Pictures that cannot be read, and why, as far as is known."""

    def of(self, index: PictureIndex) -> PictureSource:
        """The same for a part of the index."""


@dataclass(frozen=True)
class Batch:
    """B rows with up to N references.

    Attributes:
        latents: of the targets [B, c, h, w].
        captions: of the targets, "" where the text is dropped.
        features: of the references by name, [B, N, ...]; zeros where there is none.
        present: True where there is a reference, [B, N].
        mask: loss mask [B, 1, h, w], ones where a row is not masked; None: no row is.
        drop_image: rows whose references are replaced by the null image, [B].
    """

    latents: Tensor
    captions: list[str]
    features: Mapping[str, Tensor]
    present: Tensor
    mask: Tensor | None
    drop_image: Tensor

    def to(self, device: torch.device) -> Batch:
        """Moved, without waiting where the memory is pinned."""

        def move(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=True)

        return Batch(
            move(self.latents),
            self.captions,
            {name: move(x) for name, x in self.features.items()},
            move(self.present),
            None if self.mask is None else move(self.mask),
            move(self.drop_image),
        )

    def pin_memory(self) -> Batch:
        """Copied to memory from which a GPU reads without waiting."""
        return Batch(
            pinned(self.latents),
            self.captions,
            {name: pinned(x) for name, x in self.features.items()},
            pinned(self.present),
            None if self.mask is None else pinned(self.mask),
            pinned(self.drop_image),
        )


def pinned(x: Tensor) -> Tensor:
    """In page-locked memory, unless an encoder has left it on the GPU already."""
    return x.pin_memory() if x.device.type == "cpu" else x


def collate(
    source: FeatureSource, rows: Sequence[Row], names: Sequence[str], slots: int = 1
) -> Batch:
    """Fetch what the rows need; `names` are the features that the adapter's projection reads.

    Rows have room for `slots` references at least, so that every slot's weights take part in every
    step: parameters without a gradient would stall processes that average theirs.
    """
    return read_rows(source, rows, lambda rows: _collate(source, rows, names, slots))


def read_rows(source: FeatureSource, rows: Sequence[R], read: Callable[[list[R]], T]) -> T:
    """`read` of the rows, other ones in place of those whose pictures turn out to be unreadable."""
    while True:
        try:
            return read(source.readable(rows))
        except UnreadableError:
            continue  # every time the source knows more of them


def _collate(source: FeatureSource, rows: Sequence[Row], names: Sequence[str], slots: int) -> Batch:
    targets = [row.target for row in rows]
    masked = torch.tensor([row.masked for row in rows])
    fetched = source.fetch(targets, [LATENTS, *([MASK] if masked.any() else [])])
    features, present = pad(source, [row.references for row in rows], names, slots)
    return Batch(
        latents=fetched[LATENTS].float(),
        captions=["" if row.drop_text else source.caption(row.target) for row in rows],
        features=features,
        present=present,
        mask=_row_masks(fetched[MASK], masked) if masked.any() else None,
        drop_image=torch.tensor([row.drop_image for row in rows]),
    )


def pad(
    source: FeatureSource,
    references: Sequence[Sequence[int]],
    names: Sequence[str],
    at_least: int = 1,
) -> tuple[dict[str, Tensor], Tensor]:
    """Features [B, N, ...] and presence [B, N], N being the longest row's count or `at_least`."""
    width = max(at_least, *(len(row) for row in references))
    present = torch.tensor([[i < len(row) for i in range(width)] for row in references])
    flat = source.fetch([number for row in references for number in row], names)
    features = {}
    for name, values in flat.items():
        padded = values.new_zeros(*present.shape, *values.shape[1:])
        padded[present.to(values.device)] = values
        features[name] = padded.float()
    return features, present


def _row_masks(masks: Tensor, masked: Tensor) -> Tensor:
    return torch.where(masked.view(-1, 1, 1, 1).to(masks.device), masks.float(), 1.0)


def with_null_images(
    features: Mapping[str, Tensor],
    present: Tensor,
    drop: Tensor,
    null: Mapping[str, Tensor],
    slots: int,
) -> tuple[dict[str, Tensor], Tensor]:
    """Rows in `drop` see the null image instead: once, or in every slot that they have filled.

    The projection still runs on it, so that every parameter gets a gradient in every step.
    """
    features = {
        name: torch.where(drop.view(-1, *[1] * (x.ndim - 1)), null[name].unsqueeze(0).to(x), x)
        for name, x in features.items()
    }
    if slots == 1:
        once = torch.arange(present.shape[1], device=present.device) == 0
        present = torch.where(drop.unsqueeze(1), once, present)
    return features, present
