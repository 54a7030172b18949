"""Pictures that lie as files below one folder, and nothing outside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .index import Picture, Strings

NO_FILE = (-1, 0)


def stat_of(path: str | Path) -> tuple[int, int]:
    """Bytes and time of writing (ns) of a file; `NO_FILE` where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return NO_FILE
    return found.st_size, found.st_mtime_ns


@dataclass
class FileStore:
    """Implements `records.Store`.

    Attributes:
        names: paths below the root, with "/".
        caption_of: caption of a record.
        masks: paths of mask pictures below the root, "" where there is none.
        landmarks: [records, 10], NaN where there are none.
        boxes: [records, 4] left, top, right, bottom.
    """

    root: Path
    names: Strings
    caption_of: Callable[[int], str]
    masks: Strings | None = None
    landmarks: np.ndarray | None = None
    boxes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def has_masks(self) -> bool:
        return self.masks is not None or self.landmarks is not None

    def name(self, record: int) -> str:
        return self.names[record]

    def caption(self, record: int) -> str:
        return self.caption_of(record)

    def picture(self, record: int, identity: str) -> Picture:
        points = None if self.landmarks is None else self.landmarks[record].tolist()
        mask = self.masks[record] if self.masks else ""
        return Picture(
            self.root / self.names[record],
            identity,
            self.caption_of(record),
            self.root / mask if mask else None,
            tuple(points) if points and np.isfinite(points).all() else None,
            None if self.boxes is None else tuple(self.boxes[record].tolist()),
        )

    def open(self, record: int) -> BinaryIO:
        return (self.root / self.names[record]).open("rb")

    def stat(self, record: int) -> tuple[int, int, int, int]:
        mask = self.masks[record] if self.masks else ""
        return (
            *stat_of(f"{self.root}/{self.names[record]}"),
            *(stat_of(f"{self.root}/{mask}") if mask else NO_FILE),
        )

    def annotations(self) -> bytes:
        parts = [b"" if a is None else a.tobytes() for a in (self.landmarks, self.boxes)]
        return b"|".join([*parts, bytes(self.masks.data) if self.masks else b""])
