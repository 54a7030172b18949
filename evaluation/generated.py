"""What belongs to each generated picture: its identity, prompt, references, target, conditions."""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..files.folder import SafeFolder, Skipped
from ..pictures.sources import FolderSource, ListSource, Source, TensorSource, left_out

MANIFEST = "manifest.jsonl"
_MAX_LINE = 1 << 20
_MAX_PROMPT = 4096  # characters; text encoders read far fewer
_KEYS = ("image", "identity", "prompt", "references", "given", "target", "conditions", "encoder")
_EXAMPLE = (
    '{"image": "a/1.png", "identity": "a", "prompt": "...", "references": ["a/ref.png"], '
    '"target": "a/held_out.png", "conditions": {"weight": 0.6, "references": 4}}'
)


@dataclass(frozen=True)
class Entry:
    """What is known about one generated picture.

    Attributes:
        references: numbers into the set's references; None: all of them.
        target: number into the set's targets: the real picture that this one should look like.
        conditions: what was varied when it was made, such as {"weight": 0.6}.
        given: numbers into the set's references, of those that the adapter was shown; None: the
            same as `references`. With them apart, all points can be scored against the same.
    """

    identity: str = ""
    prompt: str = ""
    references: tuple[int, ...] | None = None
    target: int | None = None
    conditions: Mapping[str, float | int | str] = field(default_factory=dict)
    given: tuple[int, ...] | None = None


@dataclass
class GeneratedSet:
    """Generated pictures and what belongs to them; `entries` are in the order of `pictures`.

    Attributes:
        skipped: entries that could not be used.
        conditioning: names or weights hashes of the image encoder behind the pictures; scores of
            the same encoder come with a warning.
        notes: what was assumed.
    """

    pictures: Source
    entries: Sequence[Entry]
    references: Source | None = None
    targets: Source | None = None
    skipped: list[Skipped] = field(default_factory=list)
    conditioning: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    def __post_init__(self):
        if len(self.entries) != len(self.pictures):
            raise ValueError(
                f"Got {len(self.entries)} entries for {len(self.pictures)} pictures; expected one "
                "for each."
            )


def read_generated(
    folder: str | Path, references: str | Path | None = None, prompt: str = ""
) -> GeneratedSet:
    """Generated pictures of a folder: by its manifest, else by its sub-folders.

    Without a manifest a sub-folder is an identity, whose references lie in the sub-folder of the
    same name of `references`; references that lie in no sub-folder serve all identities. The
    prompt is the text file beside a picture.

    Args:
        references: folder of the reference pictures. A manifest's paths of references and
            targets may be relative to it as well as to the generated folder.
        prompt: for pictures that have none.

    Raises:
        ValueError: no folder, or no usable picture in it; or a manifest with misspelt keys.
    """
    folder = Path(folder)
    if (folder / MANIFEST).is_file():
        return _by_manifest(folder, references, prompt)
    return _by_folders(folder, references, prompt)


def generated_from_batches(
    images: Tensor | Sequence[Tensor],
    references: Tensor | Sequence[Tensor] | None = None,
    targets: Tensor | Sequence[Tensor] | None = None,
    prompts: str | Sequence[str] = "",
    identities: str | Sequence[str] = "",
    conditions: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (),
) -> GeneratedSet:
    """Generated pictures from IMAGE batches; the references serve all of them.

    Args:
        targets: one picture for each generated one.
        prompts, identities, conditions: one for all, or one for each.

    Raises:
        ValueError: another number of prompts, identities, conditions or targets than pictures.
    """
    pictures = TensorSource(images)
    count = len(pictures)
    wanted = None if targets is None else TensorSource(targets, "target")
    if wanted is not None and len(wanted) != count:
        raise ValueError(f"Got {len(wanted)} targets for {count} pictures; expected one for each.")
    columns = zip(
        _each(identities, count, "identities"),
        _each(prompts, count, "prompts"),
        _each(conditions or {}, count, "conditions"),
        strict=True,
    )
    entries = [
        Entry(identity, prompt, None, None if wanted is None else number, _conditions(values))
        for number, (identity, prompt, values) in enumerate(columns)
    ]
    given = None if references is None else TensorSource(references, "reference")
    return GeneratedSet(pictures, entries, given, wanted)


def _each(values: Any, count: int, what: str) -> list:
    if isinstance(values, (str, Mapping)):
        return [values] * count
    if len(values) == 1:
        return list(values) * count
    if len(values) != count:
        raise ValueError(f"Got {len(values)} {what} for {count} pictures; expected 1 or {count}.")
    return list(values)


def _by_folders(folder: Path, references: str | Path | None, prompt: str) -> GeneratedSet:
    pictures = FolderSource(folder)
    given = FolderSource(references) if references else None
    choice = _ByIdentity(given.relative if given else [], range(len(given)) if given else [])
    entries = []
    for path in pictures.relative:
        identity = _identity(path)
        prompt_of = _prompt_beside(folder, path) or prompt
        entries.append(Entry(identity, prompt_of, choice.of(identity)))
    return GeneratedSet(
        pictures, entries, given, None, list(pictures.skipped), notes=choice.notes(references)
    )


class _ByIdentity:
    """Which references serve an identity: those of its sub-folder, or those in no sub-folder.

    Args:
        paths: of the references, with "/".
        numbers: of the same.
    """

    def __init__(self, paths: Sequence[str], numbers: Iterable[int]):
        self._numbers: dict[str, list[int]] = {}
        for path, number in zip(paths, numbers, strict=True):
            self._numbers.setdefault(_identity(path), []).append(number)
        self._unmatched: set[str] = set()
        self._nameless = 0

    def of(self, identity: str) -> tuple[int, ...] | None:
        """Numbers; None: all."""
        chosen = self._numbers.get(identity) or self._numbers.get("")
        if chosen:
            return tuple(chosen)
        if identity and self._numbers:
            self._unmatched.add(identity)
            return ()
        self._nameless += bool(self._numbers)
        return None

    def notes(self, root: Any) -> list[str]:
        """What did not match."""
        notes = []
        if self._unmatched:
            some = ", ".join(sorted(self._unmatched)[:5])
            notes.append(
                f"Identities without references: {len(self._unmatched)} ({some}). Expected "
                f"folders of the same name in {root}."
            )
        if self._nameless:
            notes.append(
                f"Pictures in no identity's folder: {self._nameless}; compared with the "
                "references of all identities."
            )
        return notes


def _identity(path: str) -> str:
    return path.split("/")[0] if "/" in path else ""


def _prompt_beside(folder: Path, path: str) -> str:
    """Text of the .txt beside a picture; "" where there is none, or a link."""
    text = folder / f"{os.path.splitext(path)[0]}.txt"
    try:
        if text.is_symlink():
            return ""
        with text.open(encoding="utf-8-sig", errors="replace") as file:
            return " ".join(file.read(_MAX_PROMPT).split())
    except OSError:
        return ""


class _Paths:
    """Files below some folders, each with one number."""

    def __init__(self, *roots: Path):
        self._folders = [SafeFolder(root) for root in roots]
        self._numbers: dict[str, int] = {}
        self._paths: list[str] = []

    def number(self, relative: Any) -> int:
        """The first folder that has the file counts.

        Raises:
            ValueError: it is no file below one of the folders.
        """
        if not isinstance(relative, str):
            raise ValueError(f"{relative!r:.200}: is no path")
        if relative not in self._numbers:
            reasons = [folder.refusal(relative) for folder in self._folders]
            if all(reasons):
                raise ValueError(f"{relative[:200]}: {reasons[0]}")
            self._paths.append(f"{self._folders[reasons.index('')].root}/{relative}")
            self._numbers[relative] = len(self._numbers)
        return self._numbers[relative]

    def source(self) -> ListSource | None:
        return ListSource(self._paths, list(self._numbers)) if self._paths else None


def _by_manifest(folder: Path, given: str | Path | None, prompt: str) -> GeneratedSet:
    beside = FolderSource(given) if given else None
    roots = [folder, beside.root] if beside else [folder]
    references, targets = _Paths(*roots), _Paths(*roots)
    paths = beside.relative if beside else []
    choice = _ByIdentity(paths, [references.number(path) for path in paths])
    safe = SafeFolder(folder)
    skipped: list[Skipped] = []
    names, entries, encoders = [], [], set()
    for line, record in _lines(folder / MANIFEST, skipped):
        _check_keys(record, line)
        try:
            name, entry = _read_entry(record, safe, references, targets, prompt)
        except ValueError as error:
            skipped.append(Skipped(f"{MANIFEST}, line {line}", str(error)))
            continue
        if entry.references is None:
            entry = replace(entry, references=choice.of(entry.identity))
        names.append(name)
        entries.append(entry)
        encoders.add(record.get("encoder"))
    if not names:
        raise ValueError(
            f"{folder / MANIFEST} names no usable picture.{left_out(skipped)} Expected lines "
            f"like {_EXAMPLE}."
        )
    return GeneratedSet(
        ListSource([folder / name for name in names], names, skipped),
        entries,
        references.source(),
        targets.source(),
        skipped,
        tuple(sorted(e for e in encoders if isinstance(e, str) and e)),
        choice.notes(given) or _without_references(entries, references),
    )


def _without_references(entries: Sequence[Entry], references: _Paths) -> list[str]:
    """Note on lines that name none, where others do."""
    count = sum(entry.references is None for entry in entries)
    if not count or references.source() is None:
        return []
    return [f"Lines of {MANIFEST} without references: {count}; compared with those of all lines."]


def _lines(path: Path, skipped: list[Skipped]) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE), ""), start=1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                reason = f"not valid JSON ({error})"
                skipped.append(Skipped(f"{path.name}, line {number}", reason))


def _check_keys(record: Any, line: int) -> None:
    """A misspelt key is a mistake of the whole file's, not a bad picture's; others are ignored.

    Raises:
        ValueError: a key that looks like a misspelt one.
    """
    for key in record if isinstance(record, dict) else ():
        meant = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.8)
        if key not in _KEYS and meant:
            raise ValueError(
                f"Misspelt key {key!r:.100} in {MANIFEST}, line {line}; expected {meant[0]!r}. "
                f"Correct or rename it; known keys are {', '.join(_KEYS)}."
            )


def _read_entry(
    record: Any, safe: SafeFolder, references: _Paths, targets: _Paths, prompt: str
) -> tuple[str, Entry]:
    if not isinstance(record, dict):
        raise ValueError("is no object with an image")
    for key in ("image", "identity", "prompt", "target"):
        if not isinstance(record.get(key) or "", str):
            raise ValueError(f"{key} is no text")
    image = record.get("image") or ""
    reason = safe.refusal(image)
    if reason:
        raise ValueError(f"image {image[:200]}: {reason}")
    listed = {key: record.get(key) for key in ("references", "given")}
    for key, paths in listed.items():
        if paths is not None and not isinstance(paths, list):
            raise ValueError(f"{key} is no list of paths")
    numbers = {
        key: None if paths is None else tuple(references.number(path) for path in paths)
        for key, paths in listed.items()
    }
    conditions = _conditions(record.get("conditions") or {})
    entry = Entry(
        record.get("identity") or "",
        record.get("prompt") or prompt,
        numbers["references"],
        targets.number(record["target"]) if record.get("target") else None,
        conditions,
        numbers["given"],
    )
    return image, entry


def _conditions(values: Any) -> dict[str, float | int | str]:
    """Checked: they become columns of a table and axes of a figure."""
    if not isinstance(values, Mapping):
        raise ValueError("conditions is no object of names and values")
    for name, value in values.items():
        if not isinstance(name, str) or not (isinstance(value, str) or _finite(value)):
            raise ValueError(f"condition {name!r:.100} is no text and no finite number")
    return dict(values)


def _finite(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and math.isfinite(value)
    except OverflowError:  # a whole number that no axis can show
        return False
