"""Pictures -> features of one network, in the store; decoding runs ahead of the network."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..files.folder import Skipped
from ..pictures.decode import BadPictureError
from ..pictures.sources import Picture, Source
from .networks import FeatureNetwork
from .store import FeatureStore, Known

_THREADS = 4
_READ = 1024  # rows read at a time
_PIXELS = 1 << 24  # of a batch, and of what is decoded ahead of it
_LOOK_AHEAD = 64  # pictures
Batch = list[tuple[int, str, Picture]]  # pictures of one size: number, fingerprint, picture


class Interrupted(RuntimeError):
    """Stopped on request; the features so far are in the store."""

    def __init__(self, done: int, total: int):
        # Zero of zero: it was another process that stopped.
        super().__init__(f"Stopped after {done} of {total} pictures." if total else "Stopped.")
        self.done, self.total = done, total


class StoredRows:
    """Features of some pictures that stay on disk; see `features.Rows`. Reads float32 [b, D]."""

    dtype = torch.float32

    def __init__(self, store: FeatureStore, output: str, places: Sequence[Known]):
        self._store, self._output, self._places = store, output, list(places)
        width = store.rows(output, self._places[:1]).shape[1]
        self.shape = len(self._places), width

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        if isinstance(rows, slice):
            return self._store.rows(self._output, self._places[rows])
        return self._store.rows(self._output, [self._places[row] for row in rows.tolist()])


@dataclass
class Extracted:
    """Features of a source that lie in the store.

    Attributes:
        numbers: the pictures that have features, ascending.
        skipped: the others, with the reason.
        places: where the features lie.
    """

    store: FeatureStore
    numbers: list[int] = field(default_factory=list)
    skipped: dict[int, Skipped] = field(default_factory=dict)
    places: dict[int, Known] = field(default_factory=dict, repr=False)

    def size(self, number: int) -> tuple[int, int]:
        """Width and height of a picture."""
        return self.places[number].width, self.places[number].height

    def format(self, number: int) -> str:
        """File format of a picture."""
        return self.places[number].format

    def blocks(self, output: str, numbers: Sequence[int]) -> Iterator[Tensor]:
        """Features float32 [b, D] of some pictures, block by block, in the order given."""
        rows = self.rows(output, numbers)
        return (rows[start : start + _READ] for start in range(0, len(rows), _READ))

    def rows(self, output: str, numbers: Sequence[int]) -> StoredRows:
        """Features [len(numbers), D] of some pictures, which stay on disk."""
        return StoredRows(self.store, output, [self.places[n] for n in numbers])

    def features(self, output: str, numbers: Sequence[int]) -> Tensor:
        """Features float32 [len(numbers), D] of some pictures, all in memory."""
        out = None
        start = 0
        for block in self.blocks(output, numbers):
            if out is None:
                out = torch.empty(len(numbers), block.shape[1])
            out[start : start + len(block)] = block
            start += len(block)
        return torch.empty(0, 0) if out is None else out


@dataclass(frozen=True)
class Batches:
    """How pictures come to a network.

    They are cut into blocks of `size`, whatever the number of processes: process `rank` of `count`
    takes every `count`-th block, so the network sees the same batches, and the features are the
    same to the last bit. A batch of large pictures is cut at `_PIXELS`.
    """

    size: int = 32
    device: str | torch.device = "cpu"
    rank: int = 0
    count: int = 1

    def of(self, pictures: int) -> list[range]:
        """Numbers of the pictures of each block."""
        starts = range(self.rank * self.size, pictures, self.count * self.size)
        return [range(start, min(start + self.size, pictures)) for start in starts]


def extract(
    source: Source,
    network: FeatureNetwork,
    store: FeatureStore,
    batches: Batches,
    on_pictures: Callable[[int], None] = lambda done: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Extracted:
    """Compute the features that the store lacks.

    Args:
        on_pictures: called with the number of pictures done since the last call.
        cancelled: True stops; or it raises. The features so far are kept either way.

    Raises:
        Interrupted: `cancelled` said so.
        ValueError: features that are not finite.
    """
    blocks = batches.of(len(source))
    total, done = sum(map(len, blocks)), 0
    out = Extracted(store)
    fingerprints: dict[int, str] = {}
    try:
        for prepared in _prepared(source, store, blocks):
            if cancelled():
                raise Interrupted(done, total)
            for item in prepared:
                if item.reason:
                    out.skipped[item.number] = Skipped(source.name(item.number), item.reason)
                else:
                    fingerprints[item.number] = item.fingerprint
            for batch in _of_one_size(prepared):
                _run(source, network, store, batch, batches.device)
            done += len(prepared)
            on_pictures(len(prepared))
    finally:
        store.flush()
    out.numbers = list(fingerprints)
    for number, text in fingerprints.items():
        place = store.get(text)
        assert place is not None, text  # it was there, or has just been added
        out.places[number] = place
    return out


@dataclass(frozen=True)
class _Prepared:
    """A picture before the network: decoded, or in the store already, or unreadable."""

    number: int
    fingerprint: str = ""
    picture: Picture | None = None
    reason: str = ""

    @property
    def area(self) -> int:
        """Pixels in memory, those of both pictures of a pair."""
        return 0 if self.picture is None else self.picture.pixels.numel() // 3


def _prepared(
    source: Source, store: FeatureStore, blocks: Sequence[Sequence[int]]
) -> Iterator[list[_Prepared]]:
    """The blocks in order, those of large pictures in parts; threads decode what comes next."""
    numbers = [number for block in blocks for number in block]
    with ThreadPoolExecutor(_THREADS) as pool:
        ahead = _Ahead(pool, lambda number: _prepare(source, store, number), numbers)
        try:
            for block in blocks:
                part: list[_Prepared] = []
                for _ in block:
                    item = ahead.take()
                    if part and sum(p.area for p in part) + item.area > _PIXELS:
                        yield part
                        part = []
                    part.append(item)
                yield part
        finally:
            ahead.stop()


class _Ahead:
    """Pictures in order, while threads decode the next ones.

    No more than `_THREADS` are decoded at once, and none is begun while `_PIXELS` wait: how large
    a picture is shows only when it is decoded.
    """

    def __init__(
        self, pool: ThreadPoolExecutor, prepare: Callable[[int], _Prepared], numbers: Sequence[int]
    ):
        self._pool, self._prepare, self._numbers = pool, prepare, iter(numbers)
        self._futures: deque[Future] = deque()
        self._running = self._waiting = 0
        self._lock = threading.RLock()  # a future that is done calls back at once

    def take(self) -> _Prepared:
        """The next picture."""
        self._fill()
        item = self._futures.popleft().result()
        with self._lock:
            self._waiting -= item.area
        return item

    def stop(self) -> None:
        """Begin no more."""
        with self._lock:
            self._numbers = iter(())

    def _fill(self) -> None:
        with self._lock:
            # One that is taken may not have called back yet: what is waited for is begun anyway.
            while not self._futures or (
                self._running < _THREADS
                and len(self._futures) < _LOOK_AHEAD
                and self._waiting < _PIXELS
            ):
                number = next(self._numbers, None)
                if number is None:
                    return
                self._running += 1
                future = self._pool.submit(self._prepare, number)
                self._futures.append(future)
                future.add_done_callback(self._done)

    def _done(self, future: Future) -> None:
        with self._lock:
            self._running -= 1
            if not future.cancelled() and future.exception() is None:
                self._waiting += future.result().area
            self._fill()


def _prepare(source: Source, store: FeatureStore, number: int) -> _Prepared:
    try:
        fingerprint = source.fingerprint(number)
        known = store.get(fingerprint) is not None
        return _Prepared(number, fingerprint, None if known else source.load(number))
    except BadPictureError as error:
        return _Prepared(number, reason=str(error).removeprefix(f"{source.name(number)}: "))


def _of_one_size(prepared: Sequence[_Prepared]) -> list[Batch]:
    """Decoded pictures, grouped by size, since a batch has one."""
    groups: dict[tuple[int, ...], Batch] = {}
    for item in prepared:
        if item.picture is not None:
            batch = groups.setdefault(tuple(item.picture.pixels.shape), [])
            batch.append((item.number, item.fingerprint, item.picture))
    return list(groups.values())


def _run(
    source: Source,
    network: FeatureNetwork,
    store: FeatureStore,
    batch: Batch,
    device: str | torch.device,
) -> None:
    pixels = torch.stack([picture.pixels for _, _, picture in batch])
    features = network(pixels.to(device))
    for name in store.outputs:
        finite = features[name].isfinite().flatten(1).all(1)
        if not finite.all():
            number = batch[int((~finite).nonzero()[0])][0]
            raise ValueError(
                f"{network.name} gives {name} that are not finite numbers for "
                f"{source.name(number)}. Check the weights file, and run the network in float32."
            )
    height, width = pixels.shape[2:]
    rows = [(fingerprint, picture.format, width, height) for _, fingerprint, picture in batch]
    store.append(rows, features)
