"""The feature cache: every picture encoded once, read back at random while training.

`cache.json` holds the plan; shards of whole identities follow it, each complete or absent.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..files.claims import STALE_SECONDS, Claim, remove_stale, take
from ..files.folder import Skipped
from ..models.projection import HIDDEN
from ..pictures.index import PictureIndex, require_pairs
from .batch import LATENTS, MASK
from .cache_plan import (
    CacheKey,
    CacheSpec,
    Plan,
    check_key,
    read_plan,
    shard_ends,
    shard_path,
    write_plan,
)
from .encoding import Encoded, Encoders, encode_pictures
from .sampling import R
from .shards import (
    DamagedShardError,
    Shard,
    empty_shard,
    layout_of,
    row_bytes,
    write_shard,
)

_SCALE = ".scale"
_POLL_SECONDS = 0.2
_log = logging.getLogger(__name__)

OnProgress = Callable[[int, int], None]  # pictures done, of how many
ShouldStop = Callable[[], bool]
_EncodeNumbers = Callable[[Sequence[int]], Iterator[Encoded]]


def open_cache(
    folder: Path,
    index: PictureIndex,
    encoders: Encoders,
    spec: CacheSpec,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop = lambda: False,
) -> FeatureCache | None:
    """The cache in a folder, after what it lacks is encoded; None when stopped before that.

    Raises:
        ValueError, OSError: as `build_cache` and `FeatureCache`.
    """
    complete = build_cache(folder, index, encoders, spec, on_progress, should_stop)
    return FeatureCache(folder, index, spec.key) if complete else None


def build_cache(
    folder: Path,
    index: PictureIndex,
    encoders: Encoders,
    spec: CacheSpec,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop = lambda: False,
) -> bool:
    """Encode what the cache still lacks; several processes may do so at once.

    Killed at any moment, it goes on with the shards that are missing.

    Returns:
        True when complete, False when stopped.

    Raises:
        ValueError: the folder holds a cache of something else, or no picture can be read.
        OSError: the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)

    def encoded(numbers: Sequence[int]) -> Iterator[Encoded]:
        size, fit, names = spec.key.size, spec.key.fit, spec.stored
        return encode_pictures(
            index, numbers, encoders.encode, size, fit, encoders.batch_size, names
        )

    plan = _agree(folder, spec, index, encoded)
    left = [i for i in range(len(plan.ends)) if not _is_complete(folder, plan, i)]
    _check_room(folder, plan, left)
    while left:
        for shard in list(left):
            claim = take(_claim_path(folder, shard))
            if claim is None:
                continue
            with claim:
                if not _is_complete(folder, plan, shard) and not _build_shard(
                    folder, plan, shard, encoded, claim, on_progress, should_stop
                ):
                    return False
            left.remove(shard)
        left = [i for i in left if not _is_complete(folder, plan, i)]
        if left:  # another process has them
            if should_stop():
                return False
            time.sleep(_POLL_SECONDS)
    if on_progress:
        on_progress(len(index), len(index))
    return True


class FeatureCache:
    """Implements `batch.FeatureSource`; tensors come on the CPU.

    `index` is the given one without the pictures that could not be read.

    Raises:
        ValueError: no cache, an unfinished one, or one of other encoders, size, fit or pictures.
    """

    def __init__(self, folder: Path, index: PictureIndex, key: CacheKey):
        self.folder = folder
        plan = read_plan(folder)
        if plan is None:
            raise ValueError(f"There is no feature cache in {folder}. Build it first.")
        check_key(folder, plan.key, key)
        self.plan = plan
        self._ends = np.asarray(self.plan.ends)
        self._shards = [self._open(i) for i in range(len(self.plan.ends))]
        bad = {
            self.plan.rows_of(i)[row]: reason
            for i, shard in enumerate(self._shards)
            for row, reason in shard.bad.items()
        }
        self.skipped = [Skipped(index.name(number), reason) for number, reason in bad.items()]
        self._positions = np.full(len(index.store), -1, dtype=np.int64)  # record -> row
        self._positions[index.records] = np.arange(len(index))
        self._positions[index.records[list(bad)]] = -1
        self.index = require_pairs(index.without(bad), self.skipped)
        self._rows = self._positions[self.index.records]

    def of(self, index: PictureIndex) -> FeatureCache:
        """The same for a part of `index`, such as its held-out identities.

        Raises:
            ValueError: not a part of it.
        """
        rows = self._positions[index.records] if index.store is self.index.store else np.array([-1])
        if (rows < 0).any():
            raise ValueError(
                "Got pictures that are not in the cache; expected a part of its index."
            )
        part = object.__new__(FeatureCache)
        part.__dict__.update(self.__dict__)
        part.index, part._rows = index, rows
        return part

    def caption(self, number: int) -> str:
        """Caption of a picture."""
        return self.index.caption(number)

    def readable(self, rows: Sequence[R]) -> list[R]:
        """The same rows: the index has no picture that could not be read."""
        return list(rows)

    def fetch(self, numbers: Sequence[int], names: Sequence[str]) -> dict[str, Tensor]:
        """[len(numbers), ...] float16 each; only these rows are read.

        Raises:
            ValueError: a feature that is not in the cache, or a damaged shard.
        """
        rows = self._rows[np.asarray(numbers, dtype=np.int64)]
        shards = np.searchsorted(self._ends, rows, side="right")
        with torch.inference_mode(False):  # autograd must be able to save what comes out
            return {name: self._gather(name, shards.tolist(), rows.tolist()) for name in names}

    def _open(self, shard: int) -> Shard:
        path = shard_path(self.folder, shard)
        if not path.is_file():
            raise ValueError(
                f"The feature cache in {self.folder} is not complete: {path.name} is missing. "
                "Build the cache again: only what is missing is made."
            )
        return Shard(path, self.plan.layout, len(self.plan.rows_of(shard)))

    def _gather(self, name: str, shards: list[int], rows: list[int]) -> Tensor:
        layout = self.plan.layout
        if name == MASK and name not in layout:
            return torch.ones(len(rows), 1, *layout[LATENTS][1][1:], dtype=torch.float16)
        if name not in layout:
            raise ValueError(
                f"The feature cache in {self.folder} holds {', '.join(self.plan.names)}; {name} "
                "is needed. Build another one, in another folder."
            )
        out = torch.empty(len(rows), *layout[name][1], dtype=torch.float16)
        scaled = name + _SCALE in layout
        for i, (shard, row) in enumerate(zip(shards, rows, strict=True)):
            local = row - self.plan.rows_of(shard).start
            values = self._shards[shard].row(name, local)
            if scaled:
                scale = self._shards[shard].row(name + _SCALE, local)
                values = values.float() * scale.float().unsqueeze(-1)
            out[i] = values
        return out


def _claim_path(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:05d}.claim"


def _remove_leftovers(folder: Path) -> None:
    """What killed processes left; young half-written files may belong to a living process."""
    for path in folder.glob("*.claim"):
        remove_stale(path)
    for path in folder.glob(".*.tmp"):
        try:
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
        except OSError:
            continue  # another process was faster


def _is_complete(folder: Path, plan: Plan, shard: int) -> bool:
    path = shard_path(folder, shard)
    if not path.is_file():
        return False
    try:
        Shard(path, plan.layout, len(plan.rows_of(shard)))
    except DamagedShardError as error:
        _log.warning("%s It is made anew.", error)
        return False
    return True


def _agree(folder: Path, spec: CacheSpec, index: PictureIndex, encoded: _EncodeNumbers) -> Plan:
    """The plan of all processes: whoever comes first makes it."""
    while (plan := read_plan(folder)) is None:
        claim = take(folder / "cache.claim")
        if claim is None:
            time.sleep(_POLL_SECONDS)
            continue
        with claim:
            if read_plan(folder) is None:
                plan = _make_plan(spec, index, encoded)
                write_plan(folder, plan)
    check_key(folder, plan.key, spec.key)
    if (spec.int8, spec.stored) != (plan.int8, plan.names):
        raise ValueError(
            f"The feature cache in {folder} holds {', '.join(plan.names)} with int8 = {plan.int8}; "
            f"wanted {', '.join(spec.stored)} with int8 = {spec.int8}. Delete it, or set another "
            "cache_folder."
        )
    return plan


def _make_plan(spec: CacheSpec, index: PictureIndex, encoded: _EncodeNumbers) -> Plan:
    """From the first picture that can be read."""
    reasons: list[str] = []
    for number in range(len(index)):
        batch = next(encoded([number]))
        if batch.numbers:
            break
        reasons += batch.bad.values()
    else:
        raise ValueError(f"No picture of {index.root} can be read. {' '.join(reasons[:3])}")
    unknown = set(spec.stored) - set(batch.features)
    if unknown:
        raise ValueError(
            f"Got {', '.join(sorted(unknown))} to store; the encoder gives "
            f"{', '.join(batch.features)}."
        )
    layout = layout_of(_stored(batch, spec.stored, spec.int8, index.store.has_masks))
    ends = shard_ends(index, row_bytes(layout), spec.shard_bytes)
    return Plan(spec.key, spec.int8, spec.stored, layout, ends)


def _check_room(folder: Path, plan: Plan, shards: Sequence[int]) -> None:
    needed = sum(len(plan.rows_of(i)) for i in shards) * row_bytes(plan.layout)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"The feature cache needs {needed / 1e9:.1f} GB more in {folder}; {free / 1e9:.1f} GB "
            "are free. Make room, use another disk, a smaller size or int8, or train without a "
            "cache."
        )


def _build_shard(
    folder: Path,
    plan: Plan,
    shard: int,
    encoded: _EncodeNumbers,
    claim: Claim,
    on_progress: OnProgress | None,
    should_stop: ShouldStop,
) -> bool:
    """False when stopped; then nothing is written."""
    numbers = plan.rows_of(shard)
    tensors = empty_shard(plan.layout, len(numbers))
    bad: dict[int, str] = {}
    done = 0
    for batch in encoded(numbers):
        if should_stop():
            return False
        claim.renew()
        rows = torch.tensor([n - numbers.start for n in batch.numbers], dtype=torch.long)
        bad |= {n - numbers.start: reason for n, reason in batch.bad.items()}
        if len(rows):
            for name, values in _stored(batch, plan.names, plan.int8, MASK in plan.layout).items():
                tensors[name][rows] = values
        done += len(batch.numbers) + len(batch.bad)
        if on_progress:
            on_progress(numbers.start + done, plan.ends[-1])
    try:
        write_shard(shard_path(folder, shard), tensors, bad)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"{shard_path(folder, shard).name} cannot be written to {folder}: {error}. The "
            "finished shards are kept; make room, and build the cache again."
        ) from error
    return True


def _stored(batch: Encoded, names: Sequence[str], int8: bool, masks: bool) -> dict[str, Tensor]:
    """As it lies on disk: float16, or int8 with one float16 scale per row of hidden states."""
    tensors = {name: batch.features[name].to("cpu", torch.float16) for name in names}
    if int8 and HIDDEN in tensors:
        values = tensors[HIDDEN].float()
        scale = (values.abs().amax(-1) / 127).clamp(min=1e-6).half()
        tensors[HIDDEN] = (values / scale.float().unsqueeze(-1)).round().clamp(-127, 127).char()
        tensors[HIDDEN + _SCALE] = scale
    if masks:
        tensors[MASK] = batch.masks.half()
    return tensors
