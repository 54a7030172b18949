"""The index of a dataset: which pictures there are, and whose; what every importer makes.

200,000 pictures are a few packed arrays here, not 200,000 objects.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from ..files.folder import Skipped


@dataclass(frozen=True)
class Picture:
    """One picture and what is known about it.

    Attributes:
        landmarks: x, y of left eye, right eye, nose, left and right corner of the mouth, in pixels.
        box: left, top, right, bottom of the part to use, in pixels; None: all of it.
    """

    path: Path
    identity: str
    caption: str = ""
    mask: Path | None = None
    landmarks: tuple[float, ...] | None = None
    box: tuple[int, int, int, int] | None = None


class Strings(Sequence[str]):
    """Many short texts in one buffer."""

    def __init__(self, texts: Iterable[str] = ()):
        self.data, self.ends = bytearray(), array("q", [0])
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Append a text."""
        self.data += text.encode("utf-8", "surrogatepass")  # file names need not be valid Unicode
        self.ends.append(len(self.data))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, i: int) -> str:  # type: ignore[override]  # no slices are asked for
        if not 0 <= i < len(self):
            raise IndexError(i)
        return self.data[self.ends[i] : self.ends[i + 1]].decode("utf-8", "surrogatepass")


def _running_sum(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))]).astype(np.int64)


class Store(Protocol):
    """Where the pictures lie; records are numbered in the importer's order."""

    @property
    def has_masks(self) -> bool:
        """Whether some pictures may have a mask."""

    def __len__(self) -> int: ...

    def name(self, record: int) -> str:
        """Path below the root, with "/"; for messages and for the fingerprint of the dataset."""

    def picture(self, record: int, identity: str) -> Picture:
        """All that is known about the picture."""

    def caption(self, record: int) -> str:
        """The caption alone."""

    def open(self, record: int) -> BinaryIO:
        """The encoded picture. Raises OSError."""

    def stat(self, record: int) -> tuple[int, int, int, int]:
        """Bytes and time of writing (ns) of the encoded picture, and of the file of its mask;
        -1 and 0: there is none."""

    def annotations(self) -> bytes:
        """What else changes the pixels and masks that come out."""


@dataclass
class PictureIndex:
    """Pictures grouped by identity: those of one identity have consecutive numbers.

    Attributes:
        root: folder of the dataset.
        store: where the pictures lie.
        identities: names.
        starts: first picture number of every identity, and the number of pictures, [I + 1].
        records: the store's record of every picture number.
        skipped: bad entries, which the index does not hold.
        notes: what is missing in the dataset, and what is lost by it.
    """

    root: Path
    store: Store
    identities: Sequence[str]
    starts: np.ndarray
    records: np.ndarray
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _stats: np.ndarray | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.records)

    def pictures_of(self, identity: int) -> range:
        """Numbers of the identity's pictures."""
        return range(int(self.starts[identity]), int(self.starts[identity + 1]))

    def counts(self) -> np.ndarray:
        """Pictures per identity, [I]."""
        return np.diff(self.starts)

    def identity_of(self, number: int) -> int:
        """Whose picture it is."""
        return int(np.searchsorted(self.starts, number, side="right")) - 1

    def name(self, number: int) -> str:
        """Path below the root."""
        return self.store.name(int(self.records[number]))

    def caption(self, number: int) -> str:
        """Caption of a picture, "" where there is none."""
        return self.store.caption(int(self.records[number]))

    def picture(self, number: int) -> Picture:
        """All that is known about a picture."""
        identity = self.identities[self.identity_of(number)]
        return self.store.picture(int(self.records[number]), identity)

    def open(self, number: int) -> BinaryIO:
        """The encoded picture. Raises OSError."""
        return self.store.open(int(self.records[number]))

    def sizes(self) -> np.ndarray:
        """Bytes of every picture, -1 where the file is missing, [P]."""
        return self._all_stats()[:, 0]

    def _all_stats(self) -> np.ndarray:
        """`Store.stat` of every picture, [P, 4]; asked for once, and only when it is needed: on a
        network disk it takes far longer than the index."""
        if self._stats is None:
            stats = (self.store.stat(int(r)) for r in self.records)
            self._stats = np.fromiter(stats, dtype=np.dtype((np.int64, 4)), count=len(self))
        return self._stats

    def digest(self, times: bool = False) -> str:
        """Changes when a picture is added, removed, renamed, or when it or its mask gets another
        size in bytes; the same wherever the dataset lies.

        Args:
            times: changes also when a picture or its mask is written anew (what was made from the
                old one is stale), which includes copying without the times.
        """
        digest = hashlib.sha256(self.starts.tobytes())
        for text in self.identities:
            digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
        for number in range(len(self)):
            digest.update(self.name(number).encode("utf-8", "surrogatepass") + b"\n")
        stats = self._all_stats()
        digest.update((stats if times else stats[:, ::2]).tobytes())
        digest.update(self.store.annotations())
        return digest.hexdigest()[:16]

    def subset(self, identities: Sequence[int]) -> PictureIndex:
        """Some identities, in the order given."""
        ranges = [self.pictures_of(int(i)) for i in identities]
        numbers = np.concatenate([np.arange(r.start, r.stop) for r in ranges] or [np.zeros(0, int)])
        return self._part(identities, [len(r) for r in ranges], numbers)

    def without(self, numbers: Iterable[int]) -> PictureIndex:
        """All but some pictures; identities that have none left go too."""
        keep = np.ones(len(self), dtype=bool)
        keep[list(numbers)] = False
        counts = np.zeros(0, np.int64)
        if len(self):
            counts = np.add.reduceat(keep, self.starts[:-1], dtype=np.int64)
        left = np.flatnonzero(counts).tolist()
        return self._part(left, counts[left], np.flatnonzero(keep))

    def _part(
        self, identities: Sequence[int], counts: Sequence[int] | np.ndarray, numbers: np.ndarray
    ) -> PictureIndex:
        return PictureIndex(
            self.root,
            self.store,
            Strings(self.identities[int(i)] for i in identities),
            _running_sum(counts),
            self.records[numbers],
            self.skipped,
            self.notes,
            None if self._stats is None else self._stats[numbers],
        )

    def split(
        self, held_out: int, random: np.random.Generator
    ) -> tuple[PictureIndex, PictureIndex]:
        """Training and held-out part, without a common identity.

        Args:
            held_out: number of the identities with two or more pictures.

        Raises:
            ValueError: nothing would be left to train on.
        """
        usable = np.flatnonzero(self.counts() >= 2)
        if not 0 <= held_out < len(usable):
            raise ValueError(
                f"Got {len(usable)} identities with two or more pictures and {held_out} to hold "
                "out; at least one must be left to train on. Hold fewer out, or add identities."
            )
        chosen = np.sort(random.permutation(usable)[:held_out])
        left = np.setdiff1d(np.arange(len(self.identities)), chosen)
        return self.subset(left.tolist()), self.subset(chosen.tolist())


def group(
    root: Path,
    store: Store,
    owners: Iterable[tuple[int, str]],
    skipped: list[Skipped],
    notes: list[str],
) -> PictureIndex:
    """Sort (record, identity) pairs by identity; each identity keeps the importer's order."""
    numbers: dict[str, int] = {}
    pairs = np.fromiter(
        ((record, numbers.setdefault(name, len(numbers))) for record, name in owners),
        dtype=np.dtype((np.int64, 2)),
    ).reshape(-1, 2)
    names = sorted(numbers)
    rank = np.zeros(len(names), dtype=np.int64)
    rank[[numbers[name] for name in names]] = np.arange(len(names))
    ranks = rank[pairs[:, 1]]
    order = np.argsort(ranks, kind="stable")
    starts = _running_sum(np.bincount(ranks, minlength=len(names)))
    return PictureIndex(root, store, Strings(names), starts, pairs[order, 0], skipped, notes)


def require_pairs(index: PictureIndex, skipped: Sequence[Skipped] = ()) -> PictureIndex:
    """The same index, if something in it can be trained on.

    Raises:
        ValueError: no identity has two pictures.
    """
    if (index.counts() >= 2).any():
        return index
    skipped = skipped or index.skipped
    reasons = "; ".join(map(str, skipped[:3]))
    left_out = f" Left out: {len(skipped)} ({reasons})." if skipped else ""
    raise ValueError(
        f"No identity with two pictures in {index.root}: got {len(index)} usable pictures of "
        f"{len(index.identities)} identities. Training restores one picture from the others of "
        "the same identity: give at least one identity two or more, one folder for each identity "
        f"(or one identity name in the annotations).{left_out}"
    )
