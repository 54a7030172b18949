"""Importer: a JSON or JSONL manifest of entries {image, identity, caption?, mask?}."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..files.folder import SafeFolder, Skipped
from .file_store import FileStore
from .index import PictureIndex, Strings, group

SUFFIXES = (".json", ".jsonl")
_MAX_LINE = 1 << 20


def open_manifest(path: Path) -> PictureIndex:
    """Index the pictures of a manifest; paths are relative to it and stay in its folder.

    Raises:
        ValueError: not a manifest.
    """
    root = path.parent.resolve()
    safe = SafeFolder(root)
    skipped: list[Skipped] = []
    owners: list[str] = []
    columns = {key: Strings() for key in ("image", "caption", "mask")}
    for place, entry in _entries(path, skipped):
        reason = _refusal(entry, safe)
        if reason:
            skipped.append(Skipped(f"{path.name}, {place}", reason))
            continue
        owners.append(str(entry["identity"]))
        for key, column in columns.items():
            column.add(entry.get(key) or "")
    names, captions, masks = columns["image"], columns["caption"], columns["mask"]
    store = FileStore(root, names, captions.__getitem__, masks if masks.data else None)
    missing = sum(not caption for caption in captions)
    with_mask = sum(bool(mask) for mask in masks)
    notes = [
        f"{len(owners) - missing} of {len(owners)} entries have a caption, {with_mask} have a mask."
    ]
    return group(root, store, enumerate(owners), skipped, notes)


def _entries(path: Path, skipped: list[Skipped]) -> Iterator[tuple[str, Any]]:
    if path.suffix.lower() == ".jsonl":
        yield from _lines(path, skipped)
        return
    try:
        with path.open(encoding="utf-8-sig") as file:
            entries = json.load(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not valid JSON: {error}. Correct it there.") from error
    if not isinstance(entries, list):
        raise ValueError(
            f"{path.name} holds a {type(entries).__name__}; expected a list of entries like "
            '{"image": "a/1.jpg", "identity": "a", "caption": "...", "mask": "a/1_mask.png"}.'
        )
    yield from ((f"entry {i}", entry) for i, entry in enumerate(entries, start=1))


def _lines(path: Path, skipped: list[Skipped]) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE), ""), start=1):
            if not line.strip():
                continue
            try:
                yield f"line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                reason = f"not valid JSON ({error})"
                skipped.append(Skipped(f"{path.name}, line {number}", reason))


def _refusal(entry: Any, safe: SafeFolder) -> str:
    """Why an entry cannot be used; "" when it can."""
    if not isinstance(entry, dict):
        return "is no object with image and identity"
    identity = entry.get("identity")
    if isinstance(identity, bool) or not isinstance(identity, (str, int)) or identity == "":
        return "has no identity"
    for key in ("image", "mask", "caption"):
        if not isinstance(entry.get(key) or "", str):
            return f"{key} is no text"
    if not entry.get("image"):
        return "has no image"
    reason = safe.refusal(entry["image"])
    if reason:
        return f"image {entry['image'][:200]}: {reason}"
    reason = safe.refusal(entry["mask"]) if entry.get("mask") else ""
    return f"mask {entry['mask'][:200]}: {reason}" if reason else ""
