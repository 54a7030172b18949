"""Importer: CelebA, aligned or in the wild, from its official text files."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from ..files.folder import SafeFolder, Skipped
from .captions import NO_ATTRIBUTES, celeba_caption
from .file_store import FileStore
from .index import PictureIndex, Strings, group

SPLITS = ("train", "valid", "test")
IDENTITY, ATTRIBUTES = "identity_CelebA.txt", "list_attr_celeba.txt"
PARTITION, BOXES = "list_eval_partition.txt", "list_bbox_celeba.txt"
ALIGNED_POINTS, WILD_POINTS = "list_landmarks_align_celeba.txt", "list_landmarks_celeba.txt"
ALIGNED, WILD = "img_align_celeba", "img_celeba"
_BOX_MARGIN = 0.5  # of the face box's larger side: hair and shoulders come along


def is_celeba(root: Path) -> bool:
    """Whether a folder looks like CelebA, complete or not."""
    return any(_find(root, name) for name in (IDENTITY, ATTRIBUTES, ALIGNED, WILD))


def open_celeba(root: Path, split: str = "train", seed: int = 0) -> PictureIndex:
    """Index one split ("all": all of them); captions are drawn from the attributes.

    Raises:
        ValueError: no pictures, no identities, a damaged file, or people in two splits.
    """
    root = root.resolve()
    folder, aligned = _pictures_folder(root)
    names, owners = _identities(root)
    numbers = {name: record for record, name in enumerate(names)}
    notes: list[str] = []
    chosen = _chosen(root, split, numbers, owners, notes)
    skipped: list[Skipped] = []
    usable = _usable(folder, names, chosen, skipped)
    store = _store(root, folder, aligned, names, numbers, seed, notes)
    pairs = ((record, str(owners[record])) for record in usable)
    return group(root, store, pairs, skipped, notes)


def _find(root: Path, name: str) -> Path | None:
    """In the folder itself, or where the official download keeps it."""
    places = (root / part / name for part in (".", "Anno", "Eval", "Img"))
    return next((place for place in places if place.exists()), None)


def _pictures_folder(root: Path) -> tuple[Path, bool]:
    for name in (ALIGNED, WILD):
        folder = _find(root, name)
        if folder and folder.is_dir():
            inner = folder / name  # unpacked twice
            folder = inner if inner.is_dir() else folder
            if not folder.resolve().is_relative_to(root):
                raise ValueError(
                    f"{name} is a link that leads out of {root}. Copy the pictures into it."
                )
            return folder.resolve(), name == ALIGNED
    raise ValueError(
        f"Got the CelebA folder {root} without pictures; expected them in {ALIGNED} (or {WILD}). "
        f"Unpack {ALIGNED}.zip there."
    )


def _identities(root: Path) -> tuple[list[str], np.ndarray]:
    path = _find(root, IDENTITY)
    if path is None:
        raise ValueError(
            f"{IDENTITY} is missing in {root}: without it nobody knows which pictures show the "
            "same person, and nothing can be trained. CelebA's authors give it on request, for "
            "research; copies of the data set with .csv files do not have it."
        )
    names, rows = _table(path, header=False, columns=1)
    return names, rows[:, 0].astype(np.int64)


def _chosen(
    root: Path, split: str, numbers: dict[str, int], owners: np.ndarray, notes: list[str]
) -> np.ndarray:
    """Records of the split."""
    if split not in (*SPLITS, "all"):
        raise ValueError(f"Got the split {split!r}; expected one of {', '.join(SPLITS)}, all.")
    path = _find(root, PARTITION)
    if path is None:
        if split in ("valid", "test"):
            raise ValueError(f"{PARTITION} is missing in {root}: there is no split {split!r}.")
        notes.append(f"{PARTITION} is missing: all pictures are used, also those meant for tests.")
        return np.arange(len(owners))
    parts = _aligned_rows(path, numbers, header=False, columns=1)[:, 0]
    _assert_disjoint(owners, parts)
    return (
        np.arange(len(owners)) if split == "all" else np.flatnonzero(parts == SPLITS.index(split))
    )


def _assert_disjoint(owners: np.ndarray, parts: np.ndarray) -> None:
    known = np.isfinite(parts)
    pairs = np.unique(np.stack([owners[known], parts[known]], axis=1), axis=0)
    people, counts = np.unique(pairs[:, 0], return_counts=True)
    shared = people[counts > 1].astype(int)
    if len(shared):
        raise ValueError(
            f"{len(shared)} identities are in more than one split of {PARTITION} (for example "
            f"{', '.join(map(str, shared[:3]))}): results on held-out people would be wrong. "
            f"{IDENTITY} and {PARTITION} do not belong together; get both from one source."
        )


def _usable(
    folder: Path, names: list[str], chosen: np.ndarray, skipped: list[Skipped]
) -> Iterator[int]:
    """Those that are there and lie in the folder. One listing is faster than asking for each."""
    safe = SafeFolder(folder)
    with os.scandir(folder) as entries:
        links = {entry.name: entry.is_symlink() for entry in entries}
    for record in chosen.tolist():
        name = names[record]
        is_plain = links.get(name) is False  # names in the listing have no separators
        reason = "" if is_plain else safe.refusal(name)
        if reason:
            skipped.append(Skipped(name, reason))
        else:
            yield record


def _store(
    root: Path,
    folder: Path,
    aligned: bool,
    names: list[str],
    numbers: dict[str, int],
    seed: int,
    notes: list[str],
) -> FileStore:
    below = folder.relative_to(root).as_posix()
    points = _optional(root, ALIGNED_POINTS if aligned else WILD_POINTS, numbers, 10, notes,
                       "no face masks")  # fmt: skip
    boxes = None
    if not aligned:
        boxes = _optional(root, BOXES, numbers, 4, notes, "the whole pictures are used")
    return FileStore(
        root,
        Strings(f"{below}/{name}" for name in names),
        _captions(root, names, numbers, seed, notes),
        landmarks=None if points is None else points.astype(np.float32),
        boxes=None if boxes is None else _with_margin(boxes),
    )


def _optional(
    root: Path, name: str, numbers: dict[str, int], columns: int, notes: list[str], lost: str
) -> np.ndarray | None:
    path = _find(root, name)
    if path is None:
        notes.append(f"{name} is missing: {lost}.")
        return None
    return _aligned_rows(path, numbers, header=True, columns=columns)


def _with_margin(boxes: np.ndarray) -> np.ndarray:
    """x, y, width, height -> a square around the face; an unknown box becomes an empty one."""
    boxes = np.nan_to_num(boxes, nan=0.0)
    half = boxes[:, 2:].max(1) * (0.5 + _BOX_MARGIN)
    half[boxes[:, 2:].min(1) <= 0] = 0
    x, y = (boxes[:, :2] + boxes[:, 2:] / 2).T
    return np.stack([x - half, y - half, x + half, y + half], 1).round().astype(np.int32)


def _captions(root: Path, names: list[str], numbers: dict[str, int], seed: int, notes: list[str]):
    path = _find(root, ATTRIBUTES)
    if path is None:
        notes.append(f"{ATTRIBUTES} is missing: every caption is {NO_ATTRIBUTES!r}.")
        return lambda record: NO_ATTRIBUTES
    columns = _column_names(path)
    values = _aligned_rows(path, numbers, header=True, columns=len(columns))
    packed = np.packbits(values > 0, axis=1)
    known = np.isfinite(values).all(1)
    # Bound to the packed names: 200,000 Python strings would stay in memory otherwise.
    return partial(_caption, Strings(names), tuple(columns), packed, known, seed)


def _caption(
    names: Strings, columns: tuple[str, ...], packed: np.ndarray, known: np.ndarray, seed: int,
    record: int,
) -> str:  # fmt: skip
    if not known[record]:
        return NO_ATTRIBUTES
    values = np.unpackbits(packed[record], count=len(columns))
    has = {name for name, value in zip(columns, values, strict=True) if value}
    return celeba_caption(has, seed, names[record])


def _column_names(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig") as file:
        file.readline()
        return file.readline().split()


def _aligned_rows(path: Path, numbers: dict[str, int], header: bool, columns: int) -> np.ndarray:
    """Values by record, NaN for pictures that the file does not name, [records, columns]."""
    names, rows = _table(path, header, columns)
    records = np.fromiter((numbers.get(name, -1) for name in names), np.int64, len(names))
    values = np.full((len(numbers), columns), np.nan, dtype=np.float32)
    values[records[records >= 0]] = rows[records >= 0]
    return values


def _table(path: Path, header: bool, columns: int) -> tuple[list[str], np.ndarray]:
    """File names and numbers [rows, columns]; any run of blanks separates them.

    With a header, line 1 is the number of rows and line 2 the column names.

    Raises:
        ValueError: a line of another form, or fewer rows than line 1 promises.
    """
    names: list[str] = []
    flat = array("f")
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        promised = _count(path, file.readline()) if header else None
        if header:
            file.readline()
        for line, text in enumerate(file, start=3 if header else 1):
            fields = text.split()
            if not fields:
                continue
            try:
                values = [float(field) for field in fields[1:]]
            except ValueError:
                values = []
            if len(values) != columns:
                raise ValueError(
                    f"{path.name}, line {line}: got {text.strip()[:60]!r}; expected a file name "
                    f"and {columns} numbers. Get the original file."
                )
            names.append(fields[0])
            flat.extend(values)
    if promised is not None and len(names) < promised:
        raise ValueError(
            f"{path.name}: got {len(names)} rows; its first line promises {promised}. The file is "
            "cut off; get it again."
        )
    return names, np.array(flat, dtype=np.float32).reshape(-1, columns)


def _count(path: Path, text: str) -> int:
    if not text.strip().isdigit():
        raise ValueError(
            f"{path.name}: got {text.strip()[:60]!r} as first line; expected the number of rows. "
            "Get the original .txt file."
        )
    return int(text)
