"""The feature cache: every picture encoded once, read back at random while training.

`cache.json` holds the plan; shards of whole identities follow it, each complete or absent.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..models.projection import HIDDEN
from .batch import LATENTS, MASK, R
from .claims import STALE_SECONDS, Claim, remove_stale, take
from .features import Encode, Encoded, encode_pictures
from .plan import CacheKey, Plan, check_key, read_plan, shard_ends, shard_path, write_plan
from .records import PictureIndex, Skipped, require_pairs
from .shards import (
    DamagedShardError,
    Shard,
    empty_shard,
    layout_of,
    row_bytes,
    write_shard,
)

SHARD_BYTES = 256 << 20
_SCALE = ".scale"
_POLL_SECONDS = 0.2
_log = logging.getLogger(__name__)


def build_cache(
    index: PictureIndex,
    folder: Path,
    encode: Encode,
    fingerprint: str,
    size: int,
    fit: str = "crop",
    batch_size: int = 16,
    int8: bool = False,
    names: Sequence[str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    verify: bool = False,
    shard_bytes: int = SHARD_BYTES,
    recogniser: str = "",
) -> bool:
    """Encode what the cache still lacks; several processes may do so at once.

    Killed at any moment, it goes on with the shards that are missing.

    Args:
        encode: pictures uint8 [b, size, size, 3] -> features, "latents" among them.
        fingerprint: of the encoders behind `encode`; `recogniser` is that of faces.
        int8: store the hidden states with 8 bits a value, and one scale per row of them.
        names: features to store besides the latents; None: all. The hidden states are most of a
            cache, and a linear projection does not read them.
        on_progress: called with (pictures done, of how many).
        verify: compare the checksums of what is there, and make damaged shards anew.

    Returns:
        True when complete, False when stopped.

    Raises:
        ValueError: the folder holds a cache of something else, or no picture can be read.
        OSError: the disk is full.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    key = CacheKey(fingerprint, size, fit, index.digest(times=True), recogniser=recogniser)

    def encoded(numbers: Sequence[int]):
        return encode_pictures(index, numbers, encode, size, fit, batch_size)

    plan = _agree(folder, key, index, encoded, int8, names, shard_bytes)
    left = [i for i in range(len(plan.ends)) if not _is_complete(folder, plan, i, verify)]
    _check_room(folder, plan, left)
    while left:
        for shard in list(left):
            claim = take(_claim_path(folder, shard))
            if claim is None:
                continue
            with claim:
                if not _is_complete(folder, plan, shard, verify) and not _build_shard(
                    folder, plan, shard, encoded, claim, on_progress, should_stop
                ):
                    return False
            left.remove(shard)
        left = [i for i in left if not _is_complete(folder, plan, i, verify)]
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

    def __init__(
        self,
        folder: Path,
        index: PictureIndex,
        fingerprint: str,
        size: int,
        fit: str,
        recogniser: str = "",
    ):
        self.folder = Path(folder)
        self.plan = read_plan(self.folder)
        if self.plan is None:
            raise ValueError(f"There is no feature cache in {folder}. Build it first.")
        key = CacheKey(fingerprint, size, fit, index.digest(times=True), recogniser=recogniser)
        check_key(self.folder, self.plan.key, key)
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

    def verify(self) -> None:
        """Read everything and compare all checksums.

        Raises:
            DamagedShardError: a shard has changed on disk.
        """
        for shard in self._shards:
            shard.verify()

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


def _is_complete(folder: Path, plan: Plan, shard: int, verify: bool) -> bool:
    path = shard_path(folder, shard)
    if not path.is_file():
        return False
    try:
        opened = Shard(path, plan.layout, len(plan.rows_of(shard)))
        if verify:
            opened.verify()
    except DamagedShardError as error:
        _log.warning("%s It is made anew.", error)
        return False
    return True


def _agree(
    folder: Path, key: CacheKey, index: PictureIndex, encoded, int8: bool, names, shard_bytes: int
) -> Plan:
    """The plan of all processes: whoever comes first makes it."""
    while (plan := read_plan(folder)) is None:
        claim = take(folder / "cache.claim")
        if claim is None:
            time.sleep(_POLL_SECONDS)
            continue
        with claim:
            if read_plan(folder) is None:
                plan = _make_plan(key, index, encoded, int8, names, shard_bytes)
                write_plan(folder, plan)
    check_key(folder, plan.key, key)
    wanted = (int8, plan.names if names is None else _stored_names(names))
    if wanted != (plan.int8, plan.names):
        raise ValueError(
            f"The feature cache in {folder} holds {', '.join(plan.names)} with int8 = {plan.int8}; "
            f"wanted {', '.join(wanted[1])} with int8 = {int8}. Delete it, or set another "
            "cache_folder."
        )
    return plan


def _stored_names(names: Sequence[str]) -> tuple[str, ...]:
    return (LATENTS, *sorted(set(names) - {LATENTS, MASK}))


def _make_plan(
    key: CacheKey, index: PictureIndex, encoded, int8: bool, names, shard_bytes: int
) -> Plan:
    """From the first picture that can be read."""
    reasons = []
    for number in range(len(index)):
        batch = next(encoded([number]))
        if batch.numbers:
            break
        reasons += batch.bad.values()
    else:
        raise ValueError(f"No picture of {index.root} can be read. {' '.join(reasons[:3])}")
    stored = _stored_names(batch.features if names is None else names)
    unknown = set(stored) - set(batch.features)
    if unknown:
        raise ValueError(
            f"Got {', '.join(sorted(unknown))} to store; the encoder gives "
            f"{', '.join(batch.features)}."
        )
    layout = layout_of(_stored(batch, stored, int8, index.store.has_masks))
    return Plan(key, int8, stored, layout, shard_ends(index, row_bytes(layout), shard_bytes))


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
    folder: Path, plan: Plan, shard: int, encoded, claim: Claim, on_progress, should_stop
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
