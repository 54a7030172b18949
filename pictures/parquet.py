"""Importer: parquet files with image and identity columns, as Hugging Face data sets have them."""

from __future__ import annotations

import io
import re
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from ..files.folder import SafeFolder, Skipped
from .captions import ATTRIBUTES, celeba_caption
from .file_store import NO_FILE, stat_of
from .index import Picture, PictureIndex, Strings, group

IDENTITY_COLUMNS = ("identity", "celeb_id", "identity_id")
CAPTION_COLUMNS = ("caption", "text")
_SPLITS = {
    word: split
    for split, words in {
        "train": ("train", "training"),
        "valid": ("valid", "validation", "val", "dev"),
        "test": ("test", "testing", "eval", "evaluation"),
    }.items()
    for word in words
}
_ROWS = 256  # read at a time


def open_parquet(path: Path, split: str = "train", seed: int = 0) -> PictureIndex:
    """Index a parquet file, or those of a split in a folder (split "all": all of them).

    Raises:
        ValueError: no usable file or column, people in two splits, or pyarrow is not installed.
    """
    path = path.resolve()
    skipped: list[Skipped] = []
    files, others = _files(path, split, skipped)
    root = path if path.is_dir() else path.parent
    store = ParquetStore(root, files)
    owners = Strings()
    for file in files:
        names = _open(file).schema_arrow.names
        identity = _column(names, IDENTITY_COLUMNS, file)
        if "image" not in names:
            raise ValueError(
                f"{file.name} has the columns {', '.join(names[:20])}; expected image. Rename it."
            )
        caption = next((c for c in CAPTION_COLUMNS if c in names), None)
        attributes = [] if caption else [a for a in ATTRIBUTES if a in names]
        for row in _rows(file, [identity, *([caption] if caption else attributes)]):
            owners.add(_owner(row[identity]))
            store.add(file, row, caption, attributes, seed)
    _assert_disjoint(root, split, set(owners), others, skipped)
    pairs = _pairs(store, owners, skipped)
    missing = sum(not text for text in store.captions)
    notes = [f"{len(store) - missing} of {len(store)} rows have a caption."]
    return group(root, store, pairs, skipped, notes)


class ParquetStore:
    """Implements `records.Store`.

    Parquet cannot give one row quickly. The first picture asked for has all of them copied, in one
    pass, to a temporary file (which the system removes, and whose folder TMPDIR sets).
    """

    has_masks = False

    def __init__(self, root: Path, files: Sequence[Path]):
        self.root = root
        self.files = files
        self.names, self.captions = Strings(), Strings()
        self._blob: Any = None
        self._ends = np.zeros(1, dtype=np.int64)
        self._times: dict[str, int] = {}  # of writing, by file
        self._lock = threading.Lock()

    def add(self, file: Path, row: dict, caption: str | None, attributes, seed: int) -> None:
        """One more row."""
        name = f"{self._relative(file)}#{len(self.names)}"
        self.names.add(name)
        if caption:
            self.captions.add(row[caption] if isinstance(row[caption], str) else "")
        else:
            has = {a for a in attributes if row[a] is True or row[a] == 1}
            self.captions.add(celeba_caption(has, seed, name) if attributes else "")

    def _relative(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix()

    def _file_of(self, record: int) -> str:
        return self.names[record].rpartition("#")[0]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, record: int) -> str:
        return self.names[record]

    def caption(self, record: int) -> str:
        return self.captions[record]

    def picture(self, record: int, identity: str) -> Picture:
        return Picture(self.root / self.names[record], identity, self.captions[record])

    def open(self, record: int) -> BinaryIO:
        with self._lock:
            self._unpack()
            first, last = self._ends[record : record + 2].tolist()
            self._blob.seek(first)
            data = self._blob.read(last - first)
        if not data:
            raise OSError("the row holds no bytes, only a path")
        return io.BytesIO(data)

    def stat(self, record: int) -> tuple[int, int, int, int]:
        with self._lock:
            self._unpack()
        size = int(self._ends[record + 1] - self._ends[record])
        return (size, self._times[self._file_of(record)], *NO_FILE) if size else NO_FILE * 2

    def annotations(self) -> bytes:
        return b""

    def _unpack(self) -> None:
        if self._blob is not None:
            return
        self._times = {self._relative(file): stat_of(file)[1] for file in self.files}
        blob, ends = tempfile.TemporaryFile(), [0]  # noqa: SIM115 - lives as long as the store
        try:
            for file in self.files:
                for row in _rows(file, ["image"]):
                    ends.append(ends[-1] + blob.write(_bytes(row["image"])))
            blob.flush()
        except OSError as error:
            blob.close()
            raise RuntimeError(
                f"The pictures of {self.root} cannot be unpacked to {tempfile.gettempdir()}: "
                f"{error}. Set TMPDIR to a folder with as much room as the parquet files take."
            ) from error
        self._blob, self._ends = blob, np.asarray(ends, dtype=np.int64)


def _bytes(image: Any) -> bytes:
    """Encoded picture from a struct {bytes, path} or from the bytes themselves."""
    data = image.get("bytes") if isinstance(image, dict) else image
    return data if isinstance(data, bytes) else b""


def _owner(value: Any) -> str:
    return "" if value is None else str(value)


def _pairs(store: ParquetStore, owners: Strings, skipped: list[Skipped]):
    for record, owner in enumerate(owners):
        if owner:
            yield record, owner
        else:
            skipped.append(Skipped(store.name(record), "has no identity"))


def _assert_disjoint(
    root: Path, split: str, people: set[str], others: Iterable[Path], skipped: list[Skipped]
) -> None:
    """Raises ValueError when another split's files show people of this one."""
    for file in others:
        name = file.relative_to(root).as_posix()
        try:
            column = _column(_open(file).schema_arrow.names, IDENTITY_COLUMNS, file)
        except ValueError as error:
            skipped.append(Skipped(name, f"not compared with the split {split!r}: {error}"))
            continue
        shared = sorted({_owner(row[column]) for row in _rows(file, [column])} & people - {""})
        if shared:
            raise ValueError(
                f"{len(shared)} identities of the split {split!r} are in {name} too (for example "
                f"{', '.join(shared[:3])}): results on held-out people would be wrong. Set split = "
                '"all": people are then held out from all the files.'
            )


def _files(path: Path, split: str, skipped: list[Skipped]) -> tuple[list[Path], list[Path]]:
    """Those of the split, and those of the other splits."""
    if path.is_file():
        return [path], []
    safe = SafeFolder(path)
    found = []
    for file in sorted(path.rglob("*.parquet")):
        relative = file.relative_to(path).as_posix()
        reason = safe.refusal(relative)
        if reason:
            skipped.append(Skipped(relative, reason))
        else:
            found.append(file)
    splits = {file: _split_of(file.relative_to(path)) for file in found}
    if split == "all" or (split == "train" and not any(splits.values())):
        splits = dict.fromkeys(found, split)
    chosen = [file for file in found if splits[file] == split]
    if not chosen:
        reasons = "; ".join(map(str, skipped[:3]))
        raise ValueError(
            f"Got no parquet file of the split {split!r} in {path}; found "
            f"{', '.join(f.relative_to(path).as_posix() for f in found[:5]) or 'none'}. {reasons}"
        )
    reason = "names no split, unlike others; put train, valid or test into its name or folder's"
    skipped += [Skipped(f.relative_to(path).as_posix(), reason) for f in found if not splits[f]]
    return chosen, [file for file in found if splits[file] not in ("", split)]


def _split_of(file: Path) -> str:
    """As Hugging Face lays them out: data/train-00000-of-00003.parquet, default/train/0000.parquet;
    "" without one. The file's own name comes before its folders'."""
    for part in (file.stem, *reversed(file.parts[:-1])):
        for word in re.split("[^a-z]+", part.lower()):
            if word in _SPLITS:
                return _SPLITS[word]
    return ""


def _column(names: Sequence[str], wanted: Sequence[str], file: Path) -> str:
    for name in wanted:
        if name in names:
            return name
    raise ValueError(
        f"{file.name} has the columns {', '.join(names[:20])}; expected one of "
        f"{', '.join(wanted)} that says whom a picture shows. Rename the column."
    )


def _open(file: Path) -> Any:
    try:
        return _pyarrow().ParquetFile(file)
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise ValueError(
            f"{file.name} is not a complete parquet file: {error}. Download it again."
        ) from error


def _rows(file: Path, columns: list[str]) -> Iterator[dict]:
    for batch in _open(file).iter_batches(_ROWS, columns=columns):
        yield from batch.to_pylist()


def _pyarrow() -> ModuleType:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(
            "Reading parquet files needs pyarrow: pip install pyarrow, with the Python that runs "
            "this. Or unpack the data set to one folder for each identity."
        ) from error
    return pyarrow.parquet
