"""What a dataset holds and what is wrong with it, said before anything long starts."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..files.folder import Skipped
from ..files.names import printable
from .decode import BadPictureError
from .index import PictureIndex
from .load import check_picture

TINY_SIDE = 64  # pixels; below, a picture says little about anybody
TINY_BYTES = 512  # what the quick look can tell
_SHOWN = 5
_THREADS = 4
_CHUNK = 256

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class DatasetReport:
    """Counts and names; pictures are named by their path below the root.

    Attributes:
        histogram: pictures per identity -> number of such identities.
        singles: identities that cannot be used: one picture only.
        duplicates: groups of pictures of the same bytes. The quick look compares within an
            identity, where they hurt: a reference would show the target.
        tiny: sides below 64 pixels (quick look: files below 512 bytes).
        cache_bytes: estimate for all usable pictures.
        cache_of: the models and the size that the estimate is for.
        opened: pictures that were decoded; 0 in the quick look.
    """

    root: str
    identities: int
    pictures: int
    usable_identities: int
    usable_pictures: int
    histogram: dict[int, int]
    singles: tuple[str, ...]
    missing: tuple[str, ...]
    corrupt: tuple[tuple[str, str], ...]
    duplicates: tuple[tuple[str, ...], ...]
    tiny: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    cache_bytes: int
    steps_per_epoch: int
    opened: int
    cache_of: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def inspect_dataset(
    index: PictureIndex,
    *,
    batch_size: int = 8,
    picture_bytes: int = 0,
    cache_of: str = "",
    deep: bool = False,
    on_progress: Progress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[DatasetReport, PictureIndex]:
    """Look a dataset through before training.

    Args:
        batch_size: rows of an optimizer step, for the steps per epoch.
        picture_bytes: cached bytes of one picture, see `picture_bytes`.
        cache_of: of which models and size, in words.
        deep: decode every picture; otherwise only names and sizes are looked at.
        on_progress: called with (opened, of how many) in the deep look.
        should_stop: asked between pictures; then the rest counts as good.

    Returns:
        The report, and the index without the missing and corrupt pictures.
    """
    sizes = index.sizes()
    missing = np.flatnonzero(sizes < 0).tolist()
    corrupt, tiny, opened = _bad_and_tiny(index, sizes, deep, on_progress, should_stop)
    bad = sorted(corrupt)
    good = index.without([*missing, *bad])
    counts = good.counts()
    usable = int(counts[counts >= 2].sum())
    report = DatasetReport(
        root=printable(str(index.root)),
        identities=len(index.identities),
        pictures=len(index),
        usable_identities=int((counts >= 2).sum()),
        usable_pictures=usable,
        histogram=dict(sorted(Counter(counts.tolist()).items())),
        singles=tuple(printable(good.identities[i]) for i in np.flatnonzero(counts == 1).tolist()),
        missing=_names(index, missing),
        corrupt=tuple(zip(_names(index, bad), (corrupt[n] for n in bad), strict=True)),
        duplicates=tuple(_names(index, x) for x in _duplicates(index, sizes, deep, should_stop)),
        tiny=_names(index, tiny),
        skipped=tuple((printable(s.path), printable(s.reason)) for s in index.skipped),
        notes=tuple(index.notes),
        cache_bytes=usable * picture_bytes,
        steps_per_epoch=math.ceil(usable / batch_size),
        opened=opened,
        cache_of=cache_of,
    )
    return report, good


def _bad_and_tiny(
    index: PictureIndex,
    sizes: np.ndarray,
    deep: bool,
    on_progress: Progress | None,
    should_stop: Callable[[], bool],
) -> tuple[dict[int, str], list[int], int]:
    """Corrupt pictures and why, tiny ones, and how many were opened to find out."""
    corrupt = dict.fromkeys(np.flatnonzero(sizes == 0).tolist(), "empty file")
    if not deep:
        return corrupt, np.flatnonzero((sizes > 0) & (sizes < TINY_BYTES)).tolist(), 0
    left = np.flatnonzero(sizes > 0).tolist()
    found, tiny, opened = _open_all(index, left, on_progress, should_stop)
    return corrupt | found, tiny, opened


def _names(index: PictureIndex, numbers: Iterable[int]) -> tuple[str, ...]:
    return tuple(printable(index.name(number)) for number in numbers)


def picture_bytes(
    latents: Sequence[int] = (4, 64, 64),
    features: Iterable[Sequence[int]] = ((1024,), (257, 1280)),
    int8: bool = False,
    masks: bool = False,
) -> int:
    """Bytes that one picture takes in the cache, from the shapes of what is cached.

    With `int8`, features of two dimensions take one byte a value and two for each row's scale.
    """
    total = 2 * math.prod(latents) + 2 * masks * math.prod(latents[1:])
    for shape in features:
        rows = int8 and len(shape) == 2
        total += math.prod(shape) + 2 * shape[0] if rows else 2 * math.prod(shape)
    return total


def _open_all(
    index: PictureIndex,
    numbers: list[int],
    on_progress: Progress | None,
    should_stop: Callable[[], bool],
) -> tuple[dict[int, str], list[int], int]:
    """Corrupt pictures with reasons, tiny pictures, and how many were opened."""
    corrupt: dict[int, str] = {}
    tiny: list[int] = []
    opened = 0

    def look(number: int) -> tuple[int, int | str]:
        try:
            return number, min(check_picture(index, number))
        except BadPictureError as error:
            return number, str(error)

    with ThreadPoolExecutor(_THREADS) as pool:
        for first in range(0, len(numbers), _CHUNK):
            if should_stop():
                break
            for number, side in pool.map(look, numbers[first : first + _CHUNK]):
                if isinstance(side, str):
                    corrupt[number] = side
                elif side < TINY_SIDE:
                    tiny.append(number)
                opened += 1
            if on_progress:
                on_progress(opened, len(numbers))
    return corrupt, tiny, opened


def _duplicates(
    index: PictureIndex, sizes: np.ndarray, everywhere: bool, should_stop: Callable[[], bool]
) -> Iterator[list[int]]:
    """Groups of equal files: same size first, then same bytes."""
    owners = np.zeros(len(index), dtype=np.int64)
    if not everywhere:
        owners = np.repeat(np.arange(len(index.identities)), index.counts())
    order = np.lexsort((sizes, owners))
    same = (np.diff(sizes[order]) == 0) & (np.diff(owners[order]) == 0)
    for group in np.split(order, np.flatnonzero(~same) + 1):
        if len(group) < 2 or sizes[group[0]] <= 0 or should_stop():
            continue
        by_hash: dict[bytes, list[int]] = defaultdict(list)
        for number in group.tolist():
            digest = _hash(index, number)
            if digest:
                by_hash[digest].append(number)
        yield from (sorted(numbers) for numbers in by_hash.values() if len(numbers) > 1)


def _hash(index: PictureIndex, number: int) -> bytes:
    try:
        with index.open(number) as file:
            digest = hashlib.blake2b(digest_size=16)
            while block := file.read(1 << 20):
                digest.update(block)
            return digest.digest()
    except OSError:
        return b""


def _lines(report: DatasetReport) -> Iterator[str]:
    yield f"Dataset {report.root}"
    yield (
        f"  {report.pictures:,} pictures of {report.identities:,} identities; usable: "
        f"{report.usable_pictures:,} pictures of {report.usable_identities:,} identities with two "
        "or more"
    )
    yield f"  identities by their number of pictures: {_histogram(report.histogram)}"
    look = f"{report.opened:,} pictures opened" if report.opened else "quick look, none opened"
    of = f" ({report.cache_of})" if report.cache_of else ""
    cache = f"cache about {_size(report.cache_bytes)}{of}" if report.cache_bytes else "no cache"
    yield f"  {look}; {report.steps_per_epoch:,} steps per epoch; {cache}"
    named = {
        "identities with one picture, not usable": report.singles,
        "missing": report.missing,
        "corrupt": [reason for _, reason in report.corrupt],
        "groups of equal pictures": [" = ".join(group) for group in report.duplicates],
        "tiny": report.tiny,
        "left out": [str(Skipped(path, reason)) for path, reason in report.skipped],
    }
    for what, names in named.items():
        if names:
            more = f", and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
            shown = "; ".join(name.rstrip(".") for name in names[:_SHOWN])
            yield f"  {what}: {len(names):,} ({shown}{more})"
    yield from (f"  note: {note}" for note in report.notes)


def _histogram(histogram: dict[int, int]) -> str:
    """Summed up in ranges 1, 2-4, 5-9, 10-19, 20 and more."""
    ranges = ((1, 1), (2, 4), (5, 9), (10, 19), (20, math.inf))
    parts = []
    for low, high in ranges:
        total = sum(n for count, n in histogram.items() if low <= count <= high)
        if total:
            label = str(low) if low == high else f"{low} to {high}"
            label = f"{low} or more" if high == math.inf else label
            parts.append(f"{total:,} with {label}")
    return ", ".join(parts)


def _size(count: float) -> str:
    power = min(4, int(math.log10(count)) // 3) if count >= 1 else 0
    return f"{count / 1000**power:.3g} {('bytes', 'KB', 'MB', 'GB', 'TB')[power]}"
