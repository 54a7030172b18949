"""A folder that others filled: which of its paths are safe to open, and what was left out."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .names import printable


@dataclass(frozen=True)
class Skipped:
    """What an importer left out, and why."""

    path: str
    reason: str

    def __str__(self) -> str:
        named = self.reason.startswith(self.path) or self.reason.startswith(printable(self.path))
        return printable(self.reason if named else f"{self.path}: {self.reason}")


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
