"""Where a run's features come from: a cache, built where it is lacking, or the encoders at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..pictures.index import PictureIndex
from .cache import FeatureCache, OnProgress, ShouldStop, open_cache
from .cache_plan import CacheKey, CacheSpec
from .encoding import Encoders
from .job import DataConfig
from .online import OnlineSource


@dataclass(frozen=True)
class Folders:
    """Places of a run and of the caches that runs share; None: every run has its own."""

    run: Path
    caches: Path | None = None


def open_source(
    index: PictureIndex,
    encoders: Encoders,
    names: Sequence[str],
    data: DataConfig,
    folders: Folders,
    on_cache: OnProgress | None = None,
    should_stop: ShouldStop = lambda: False,
) -> FeatureCache | OnlineSource | None:
    """The features `names` of a dataset's pictures; None when stopped while they were encoded.

    Raises:
        ValueError: the cache is of something else, or no picture can be read.
        OSError: the disk is full.
    """
    if not data.cache:
        return OnlineSource(index, encoders.encode, data.size, data.fit)
    pictures = index.digest(times=True)
    recogniser = encoders.recogniser
    key = CacheKey(encoders.fingerprint, data.size, data.fit, pictures, recogniser=recogniser)
    spec = CacheSpec(key, names, data.int8)
    folder = Path(data.cache_folder or folders.run / "cache")
    if folders.caches is not None:
        folder = folders.caches / _name_of(spec)
    return open_cache(folder, index, encoders, spec, on_cache, should_stop)


def _name_of(spec: CacheSpec) -> str:
    """A folder's name that says what is in it, so that runs share what they have in common."""
    key = spec.key
    made_from = [key.index, key.fingerprint, key.size, key.fit, spec.int8, *spec.names]
    made_from += [key.recogniser] if key.recogniser else []
    return hashlib.sha256(repr(made_from).encode()).hexdigest()[:16]
