"""File names: what a user types is never more than a name, so that nothing leaves its folder."""

from __future__ import annotations

import re
from pathlib import Path

SUFFIX = ".safetensors"

_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{d}{i}" for d in ("COM", "LPT") for i in range(10))}


def plain_name(name: str, what: str = "name") -> str:
    """The name without its suffix.

    Raises:
        ValueError: it is more than a plain file name.
    """
    name = name.removesuffix(SUFFIX)
    plain = re.fullmatch(r"[\w\-][\w\-. ()+']*", name) and name == name.strip(" .")
    if not plain or len(name.encode()) > 200 or name.split(".")[0].upper() in _RESERVED:
        raise ValueError(
            f"Got the {what} {name!r}; expected a plain file name of letters, digits, spaces and "
            "-_.()+' without a folder, such as 'anna'."
        )
    return name


def free_path(folder: Path, name: str, overwrite: bool) -> Path:
    """A file of this name; with a number if it exists and must not be replaced."""
    path, number = folder / f"{name}{SUFFIX}", 2
    while path.exists() and not overwrite:
        path = folder / f"{name}_{number:02}{SUFFIX}"
        number += 1
    return path


def printable(text: str) -> str:
    """A file name for messages, whatever bytes it is made of."""
    return text.encode("utf-8", "backslashreplace").decode()
