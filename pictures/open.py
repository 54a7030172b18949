"""A path of any known layout -> the index of its pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from . import manifest
from .celeba import ALIGNED, SPLITS, WILD, is_celeba, open_celeba
from .decode import SUFFIXES
from .folders import open_folders
from .index import PictureIndex, require_pairs
from .manifest import open_manifest
from .parquet import open_parquet

KINDS = ("auto", "folder", "celeba", "manifest", "parquet")


def open_dataset(
    path: str | Path, kind: str = "auto", split: str = "train", seed: int = 0
) -> PictureIndex:
    """Index a dataset; nothing is decoded.

    Args:
        path: a folder of identities (LFW's layout), CelebA's folder, a .json or .jsonl manifest,
            a .parquet file or a folder of them.
        kind: one of `KINDS`; "auto" looks at what is there.
        split: "train", "valid", "test" or "all", for CelebA and parquet folders with such parts.
        seed: of the captions drawn from attributes.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: not such a dataset, or no identity in it has two pictures.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"There is no dataset at {path}. Check the name, or put the pictures there, one "
            "folder for each identity."
        )
    if kind not in KINDS:
        raise ValueError(f"Got the dataset kind {kind!r}; expected one of {', '.join(KINDS)}.")
    if split not in (*SPLITS, "all"):
        raise ValueError(f"Got the split {split!r}; expected one of {', '.join(SPLITS)}, all.")
    path = path.resolve()
    kind = recognise(path) if kind == "auto" else kind
    if kind in ("folder", "celeba") and not path.is_dir():
        raise ValueError(f"Got the file {path.name} as {kind}; expected a folder.")
    importers: dict[str, Callable[[], PictureIndex]] = {
        "folder": lambda: open_folders(path),
        "celeba": lambda: open_celeba(path, split, seed),
        "manifest": lambda: open_manifest(path),
        "parquet": lambda: open_parquet(path, split, seed),
    }
    if kind == "manifest" and path.is_dir():
        raise ValueError(f"Got the folder {path.name} as manifest; expected the file in it.")
    try:
        return require_pairs(importers[kind]())
    except ValueError as error:
        raise ValueError(f"{error}{_hint(path)}") from error


def _hint(path: Path) -> str:
    """What was meant, perhaps, by a folder in which there are no pairs."""
    if not path.is_dir():
        return ""
    if path.name in (ALIGNED, WILD):
        return f" For CelebA give the folder above, {path.parent.name}, with its text files."
    files = sorted(p.name for p in path.iterdir() if p.suffix.lower() in manifest.SUFFIXES)
    return f" To use the manifest in it, give its file: {path.name}/{files[0]}." if files else ""


def recognise(path: Path) -> str:
    """Which kind of dataset lies at an existing path.

    Raises:
        ValueError: a file of no known kind.
    """
    if path.is_dir():
        if is_celeba(path):
            return "celeba"
        return "parquet" if _holds_parquet(path) else "folder"
    if path.suffix.lower() in manifest.SUFFIXES:
        return "manifest"
    if path.suffix.lower() == ".parquet":
        return "parquet"
    raise ValueError(
        f"Got the file {path.name}; expected a folder, a .json or .jsonl manifest, or a .parquet "
        "file."
    )


def _holds_parquet(path: Path) -> bool:
    """The first file that tells decides; a large folder is not walked through."""
    for _, _, files in os.walk(path):
        for name in files:
            if name.lower().endswith((".parquet", *SUFFIXES)):
                return name.lower().endswith(".parquet")
    return False
