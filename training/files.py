"""Pictures that lie as files below one folder, and nothing outside it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .records import Picture, Strings

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


class SafeFolder:
    """Says which relative paths name a file that really lies below a folder."""

    def __init__(self, root: Path):
        self.root = root.resolve()
        self._is_inside = lru_cache(maxsize=65536)(self._lies_inside)

    def refusal(self, relative: str) -> str:
        """Why the path cannot be used; "" when it can."""
        parts = relative.replace("\\", "/").split("/")
        if not relative or "\0" in relative:
            return "no path"
        if parts[0] == "" or re.match(r"[A-Za-z]:", relative) or ".." in parts:
            return "leads out of the dataset folder; give a path below it"
        path = f"{self.root}/{relative}"
        try:
            if not self._is_inside(os.path.dirname(path)):
                return "leads out of the dataset folder through a link; copy the files into it"
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                if not self._lies_inside(path):
                    return "is a link that leads out of the dataset folder; copy the file into it"
                mode = os.stat(path).st_mode
        except (OSError, ValueError):
            return "missing"
        return "" if stat.S_ISREG(mode) else "is not a file"

    def contains(self, relative: str) -> bool:
        """Whether a file or folder that exists lies below the root, links followed."""
        return self._lies_inside(f"{self.root}/{relative}")

    def _lies_inside(self, path: str) -> bool:
        return Path(path).resolve(strict=True).is_relative_to(self.root)
