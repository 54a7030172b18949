"""What a feature cache holds and what it was made from: `cache.json`, agreed by all processes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..files.atomic import atomically
from ..pictures.index import PictureIndex
from .batch import LATENTS, MASK

_FORMAT = 1
_PLAN = "cache.json"


@dataclass(frozen=True)
class CacheKey:
    """What a cache was made from; another key needs another cache.

    Attributes:
        recogniser: of the face embeddings; "" where there are none.
    """

    fingerprint: str
    size: int
    fit: str
    index: str
    format: int = _FORMAT
    recogniser: str = ""


@dataclass(frozen=True)
class CacheSpec:
    """What a cache is for.

    Attributes:
        key: what it is made from.
        names: features to store besides the latents. The hidden states are most of a cache, and a
            linear projection does not read them.
        int8: store the hidden states with 8 bits a value, and one scale per row of them.
        shard_bytes: of a file of the cache, about.
    """

    key: CacheKey
    names: Sequence[str]
    int8: bool = False
    shard_bytes: int = 256 << 20

    @property
    def stored(self) -> tuple[str, ...]:
        """All that is stored; masks are where the dataset has them."""
        return (LATENTS, *sorted(set(self.names) - {LATENTS, MASK}))


@dataclass(frozen=True)
class Plan:
    """What the shards hold.

    Attributes:
        layout: stored tensors, name -> (dtype, shape of one row).
        ends: picture number after the last one of each shard.
    """

    key: CacheKey
    int8: bool
    names: tuple[str, ...]
    layout: Mapping[str, tuple[str, tuple[int, ...]]]
    ends: tuple[int, ...]

    def rows_of(self, shard: int) -> range:
        """Picture numbers in a shard."""
        return range(self.ends[shard - 1] if shard else 0, self.ends[shard])


def shard_path(folder: Path, shard: int) -> Path:
    """File of a shard."""
    return folder / f"shard-{shard:05d}.safetensors"


def shard_ends(index: PictureIndex, picture_bytes: int, shard_bytes: int) -> tuple[int, ...]:
    """Whole identities, up to the wanted size."""
    ends, first = [], 0
    most = max(1, shard_bytes // picture_bytes)
    for start, end in zip(index.starts[:-1].tolist(), index.starts[1:].tolist(), strict=True):
        if start > first and end - first > most:
            ends.append(start)
            first = start
    return (*ends, len(index))


def read_plan(folder: Path) -> Plan | None:
    """None where there is no cache yet.

    Raises:
        ValueError: it cannot be read.
    """
    path = folder / _PLAN
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        layout = {k: (v[0], tuple(v[1])) for k, v in content["layout"].items()}
        return Plan(
            CacheKey(**content["key"]),
            content["int8"],
            tuple(content["names"]),
            layout,
            tuple(content["ends"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{path} is damaged ({error}). Delete the folder, and build the cache again."
        ) from error


def write_plan(folder: Path, plan: Plan) -> None:
    """Write atomically."""
    with atomically(folder / _PLAN) as temporary:
        temporary.write_text(json.dumps(asdict(plan)), encoding="utf-8")


_MEANING = {
    "fingerprint": "another VAE or image encoder",
    "size": "size: {} there, {} now",
    "fit": "fit: {} there, {} now",
    "index": "the pictures of the dataset have changed, or were copied without their times",
    "format": "another version of this pack",
    "recogniser": "face recogniser: {!r} there, {!r} now",
}


def check_key(folder: Path, got: CacheKey, wanted: CacheKey) -> None:
    """Raises ValueError naming what differs."""
    differences = [
        meaning.format(getattr(got, name), getattr(wanted, name))
        for name, meaning in _MEANING.items()
        if getattr(got, name) != getattr(wanted, name)
    ]
    if differences:
        raise ValueError(
            f"The feature cache in {folder} was made from something else "
            f"({'; '.join(differences)}). Delete {folder}, and what is needed is encoded again; or "
            "set another cache_folder, to keep both."
        )
