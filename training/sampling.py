"""Which picture each row restores, and from which others: drawn anew from (seed, step, row)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from ..files.names import printable
from ..pictures.index import PictureIndex
from ..runs import streams
from .config import TrainingConfig

_MOST_IDENTITIES = 100  # in a row without readable pictures; then the disk is gone, most likely


class Identities(Protocol):
    """What the sampler needs of a `PictureIndex`."""

    @property
    def identities(self) -> Sequence[str]:
        """Names."""

    def pictures_of(self, identity: int) -> range:
        """Numbers of the identity's pictures."""


@dataclass(frozen=True)
class Row:
    """One row of a batch: picture numbers, and which conditions are dropped."""

    target: int
    references: tuple[int, ...]
    drop_image: bool = False
    drop_text: bool = False
    masked: bool = False


class DropOneSampler:
    """Every epoch restores each picture of every identity with two or more pictures once.

    The references are a random subset of the identity's other pictures; its size is uniform in
    1..min(n - 1, max_references).

    Raises:
        ValueError: no identity has two pictures.
    """

    def __init__(self, index: Identities, config: TrainingConfig):
        groups = [index.pictures_of(i) for i in range(len(index.identities))]
        usable = [group for group in groups if len(group) >= 2]
        if not usable:
            raise ValueError(
                f"Got {len(groups)} identities, none with two or more pictures. Training restores "
                "one picture from the others: add pictures, one folder for each identity."
            )
        self.config = config
        self.targets = np.concatenate([np.arange(g.start, g.stop) for g in usable])
        self._first = np.concatenate([np.full(len(g), g.start) for g in usable])
        self._count = np.concatenate([np.full(len(g), len(g)) for g in usable])

    def __len__(self) -> int:
        """Rows of an epoch."""
        return len(self.targets)

    def batch(self, micro_step: int) -> list[Row]:
        """All rows of the global batch of a micro-step, counted from the start of the run."""
        size = self.config.batch_size
        return [self.row(micro_step * size + i) for i in range(size)]

    def row(self, position: int) -> Row:
        """Row number `position` of the run."""
        epoch, place = divmod(position, len(self))
        number = _permutation(self.config.seed, epoch, len(self))[place]
        random = streams.numbers(self.config.seed, streams.ROWS, position)
        target = int(self.targets[number])
        references = self._references(random, target, int(number))
        drop_image, drop_text = self._dropped(random.random())
        masked = bool(random.random() < self.config.masked_loss)
        return Row(target, references, drop_image, drop_text, masked)

    def _references(self, random: np.random.Generator, target: int, number: int) -> tuple[int, ...]:
        first, count = int(self._first[number]), int(self._count[number])
        if random.random() < self.config.self_reconstruction:
            return (target,)
        size = int(random.integers(1, min(count - 1, self.config.max_references) + 1))
        others = random.choice(count - 1, size=size, replace=False)
        chosen = [first + int(i) + int(first + i >= target) for i in others]
        kept = random.random(size) >= self.config.reference_dropout
        kept[0] = True
        return tuple(c for c, keep in zip(chosen, kept, strict=True) if keep)

    def _dropped(self, draw: float) -> tuple[bool, bool]:
        """One draw decides: image, text, both or nothing."""
        c = self.config
        if draw < c.drop_image:
            return True, False
        if draw < c.drop_image + c.drop_text:
            return False, True
        both = draw < c.drop_image + c.drop_text + c.drop_both
        return both, both


class Drawn(Protocol):
    """A row: a target and its references, in a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def target(self) -> int:
        """Number of the picture to restore."""

    @property
    def references(self) -> tuple[int, ...]:
        """Numbers of those that it is restored from."""


R = TypeVar("R", bound=Drawn)


def without_bad(row: R, index: PictureIndex, is_bad: Callable[[int], bool]) -> R:
    """A row (target, references) of pictures that can be read; no reference becomes the target.

    A bad target gives way to the identity's next picture; bad references are left out; an identity
    with too few pictures gives way to a following one. Pictures are taken in a fixed order, so that
    the same rows come out however early or late each bad picture is noticed.

    Raises:
        ValueError: none of them has two pictures left.
    """
    if not any(map(is_bad, (row.target, *row.references))):
        return row
    itself = tuple(row.references) == (row.target,)
    first, count = index.identity_of(row.target), len(index.identities)
    for identity in (*range(first, count), *range(first))[:_MOST_IDENTITIES]:
        pictures = index.pictures_of(identity)
        start = row.target if identity == first else pictures.start
        order = (*range(start, pictures.stop), *range(pictures.start, start))
        good = [n for n in order if not is_bad(n)]
        if len(good) >= 1 + (not itself):
            target, *others = good
            kept = [n for n in row.references if n in others] or others[: len(row.references)]
            return replace(row, target=target, references=(target,) if itself else tuple(kept))
    raise ValueError(
        f"Neither {printable(index.identities[first])} nor the identities after it have two "
        "pictures that can be read. Look the dataset through, restore its files, or check that its "
        "disk is still there."
    )


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, length: int) -> np.ndarray:
    return streams.numbers(seed, streams.EPOCH, epoch).permutation(length)
