"""Importer: `root/<identity>/*.jpg` (LFW's layout), a picture's caption in a `.txt` beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..files.folder import SafeFolder, Skipped
from .decode import SUFFIXES
from .file_store import FileStore
from .index import PictureIndex, Strings, group

_MAX_CAPTION = 4096  # characters; text encoders read far fewer


def open_folders(root: Path) -> PictureIndex:
    """Index a folder of identities."""
    skipped: list[Skipped] = []
    safe = SafeFolder(root)
    owners: list[int] = []
    identities: list[str] = []
    captions = 0

    def names() -> Iterator[str]:
        nonlocal captions
        for identity in _identities(root, safe, skipped):
            files = _visible(root / identity)
            present = {name for name, _ in files}
            number = len(identities)
            identities.append(identity)
            for name, is_link in files:
                path = f"{identity}/{name}"
                reason = _refusal(path, name, is_link, safe)
                if reason:
                    skipped.append(Skipped(path, reason))
                elif not _is_text(name):
                    captions += f"{os.path.splitext(name)[0]}.txt" in present
                    owners.append(number)
                    yield path

    packed = Strings(names())
    store = FileStore(safe.root, packed, lambda record: _caption(safe, packed[record]))
    notes = _notes(captions, len(packed))
    pairs = ((record, identities[number]) for record, number in enumerate(owners))
    return group(root, store, pairs, skipped, notes)


def _identities(root: Path, safe: SafeFolder, skipped: list[Skipped]) -> list[str]:
    folders = []
    for entry in os.scandir(root):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if entry.is_symlink() and not safe.contains(entry.name):
                skipped.append(
                    Skipped(entry.name, "is a link that leads out of the dataset folder")
                )
            else:
                folders.append(entry.name)
        elif entry.name.lower().endswith(SUFFIXES):
            reason = "lies beside the identities' folders; move it into one"
            skipped.append(Skipped(entry.name, reason))
    return sorted(folders)


def _visible(folder: Path) -> list[tuple[str, bool]]:
    """Names of the files in a folder, sorted, and whether each is a link."""
    with os.scandir(folder) as entries:
        return sorted(
            (e.name, e.is_symlink())
            for e in entries
            if not e.name.startswith(".") and not e.is_dir(follow_symlinks=False)
        )


def _is_text(name: str) -> bool:
    return name.lower().endswith(".txt")


def _refusal(path: str, name: str, is_link: bool, safe: SafeFolder) -> str:
    if _is_text(name):
        return ""
    if not name.lower().endswith(SUFFIXES):
        return f"is none of {', '.join(SUFFIXES)}; convert it"
    return safe.refusal(path) if is_link else ""


def _caption(safe: SafeFolder, name: str) -> str:
    """Read when it is needed: captions of a large dataset need not be in memory."""
    text = f"{os.path.splitext(name)[0]}.txt"
    if safe.refusal(text):
        return ""
    with (safe.root / text).open(encoding="utf-8-sig", errors="replace") as file:
        return " ".join(file.read(_MAX_CAPTION).split())


def _notes(captions: int, pictures: int) -> list[str]:
    if captions == pictures:
        return [f"all {pictures} pictures have a caption."]
    return [
        f"{pictures - captions} of {pictures} pictures have no caption (a .txt file of the same "
        "name); the text condition says nothing about them."
    ]
