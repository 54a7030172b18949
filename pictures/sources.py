"""Pictures one after the other: from a folder, from a list of files, or from IMAGE batches."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..files.folder import SafeFolder, Skipped
from ..files.names import printable
from .decode import SUFFIXES, BadPictureError, decode
from .pixels import to_bytes

TENSOR = "tensor"  # format of a picture that never was a file
_BESIDE = (".txt", ".json", ".jsonl", ".csv", ".md", ".npz", ".safetensors")
_KINDS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"RIFF", "WEBP"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II", "TIFF"),
    (b"MM", "TIFF"),
)


@dataclass(frozen=True)
class Picture:
    """One decoded picture: pixels uint8 [C, H, W], C = 3 (6 for a pair), and its file format."""

    pixels: Tensor
    format: str


class Source(Protocol):
    """Pictures by number. `skipped` lists what was left out before any was opened."""

    @property
    def skipped(self) -> Sequence[Skipped]: ...

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """For reports and messages."""
        ...

    def load(self, number: int) -> Picture:
        """Decode a picture. Raises BadPictureError."""
        ...

    def fingerprint(self, number: int) -> str:
        """Changes when the picture does. Raises BadPictureError."""
        ...


class ListSource:
    """Picture files; `names` are what reports call them (default: the file names)."""

    def __init__(
        self,
        paths: Sequence[str | Path],
        names: Sequence[str] | None = None,
        skipped: Sequence[Skipped] = (),
    ):
        self._paths = [os.path.abspath(path) for path in paths]
        self._names = [os.path.basename(p) for p in self._paths] if names is None else list(names)
        self.skipped = list(skipped)

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, number: int) -> str:
        return printable(self._names[number])

    def path(self, number: int) -> Path:
        """The file of a picture."""
        return Path(self._paths[number])

    def load(self, number: int) -> Picture:
        name = self.name(number)
        try:
            file = open(self._paths[number], "rb")  # noqa: SIM115 - closed below
        except OSError as error:
            raise _unopened(name, error) from error
        with file:
            kind = _kind(file)
            image = decode(file, name)[0]
        return Picture(torch.from_numpy(np.array(image)).permute(2, 0, 1), kind)

    def fingerprint(self, number: int) -> str:
        path = self._paths[number]
        try:
            state = os.stat(path)
        except OSError as error:
            raise _unopened(self.name(number), error) from error
        text = f"{os.path.realpath(path)}|{state.st_size}|{state.st_mtime_ns}"
        return digest_of(text.encode("utf-8", "surrogatepass"))


class FolderSource(ListSource):
    """All pictures below a folder, sorted by their path; links that lead out are not followed.

    Args:
        may_be_empty: the caller says itself what is wrong with a folder without pictures.

    Raises:
        ValueError: no such folder, or no picture in it.
    """

    def __init__(self, folder: str | Path, may_be_empty: bool = False):
        self.root = Path(folder)
        if not self.root.is_dir():
            raise ValueError(
                f"There is no folder {self.root}. Give a folder that holds the pictures."
            )
        skipped: list[Skipped] = []
        relative = sorted(_files_below(self.root, skipped))
        skipped.sort(key=lambda item: item.path)
        if not relative and not may_be_empty:
            raise ValueError(
                f"There is no picture in {self.root}: expected files that end in "
                f"{', '.join(SUFFIXES)}.{left_out(skipped)} Put the pictures there, or give "
                "another folder."
            )
        self.relative = relative
        super().__init__([self.root / path for path in relative], relative, skipped)


class TensorSource:
    """IMAGE batches, float [B, H, W, 3] in 0..1, quantised as ComfyUI's Save Image does.

    So a batch and its saved PNG files have the same scores.

    Args:
        images: one batch, or several, whose sizes may differ.
        names: what reports call the pictures (default: the label and a number).

    Raises:
        ValueError: another shape or dtype, or no picture.
    """

    def __init__(
        self,
        images: Tensor | Sequence[Tensor],
        label: str = "image",
        names: Sequence[str] | None = None,
    ):
        self._batches = [images] if isinstance(images, Tensor) else list(images)
        self._label, self._names = label, names
        self.skipped: list[Skipped] = []
        for batch in self._batches:
            if batch.ndim != 4 or batch.shape[-1] not in (3, 4) or not batch.is_floating_point():
                raise ValueError(
                    f"Got {label} of {batch.dtype} {list(batch.shape)}; expected an IMAGE, float "
                    "[pictures, height, width, 3]."
                )
        self._places = [(b, row) for b, t in enumerate(self._batches) for row in range(len(t))]
        if not self._places:
            raise ValueError(f"Got no {label}; expected at least one picture.")

    def __len__(self) -> int:
        return len(self._places)

    def name(self, number: int) -> str:
        return f"{self._label} {number}" if self._names is None else self._names[number]

    def load(self, number: int) -> Picture:
        batch, row = self._places[number]
        image = self._batches[batch][row, ..., :3]
        if not torch.isfinite(image).all():
            raise BadPictureError(
                f"{self.name(number)}: pixels that are not finite numbers (a black picture). Run "
                "the VAE in float32 (ComfyUI: --fp32-vae)."
            )
        return Picture(torch.from_numpy(to_bytes(image)).permute(2, 0, 1), TENSOR)

    def fingerprint(self, number: int) -> str:
        pixels = self.load(number).pixels
        return digest_of(repr(tuple(pixels.shape)).encode() + pixels.contiguous().numpy().tobytes())


def picture_of(source: Source, number: int) -> Image.Image:
    """A picture to look at. Raises BadPictureError."""
    return Image.fromarray(source.load(number).pixels.permute(1, 2, 0).contiguous().numpy())


def left_out(skipped: Sequence[Skipped]) -> str:
    """A sentence on the first of them, or nothing."""
    if not skipped:
        return ""
    reasons = "; ".join(f"{printable(s.path)}: {s.reason}" for s in skipped[:3])
    return f" Left out: {len(skipped)} ({reasons})."


def _files_below(root: Path, skipped: list[Skipped]) -> Iterator[str]:
    safe = SafeFolder(root)
    for folder, folders, files in os.walk(root):
        above = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if above == "." else f"{above}/"
        for name in sorted(n for n in folders if os.path.islink(os.path.join(folder, n))):
            skipped.append(Skipped(prefix + name, "is a link to a folder; give that folder itself"))
        folders[:] = [n for n in folders if not n.startswith(".")]  # os.walk follows no links
        for name in files:
            if name.startswith(".") or name.lower().endswith(_BESIDE):
                continue
            reason = _refusal(safe, folder, name, prefix + name)
            if reason:
                skipped.append(Skipped(prefix + name, reason))
            else:
                yield prefix + name


def _refusal(safe: SafeFolder, folder: str, name: str, relative: str) -> str:
    if not name.lower().endswith(SUFFIXES):
        return f"is none of {', '.join(SUFFIXES)}; convert it"
    return safe.refusal(relative) if os.path.islink(os.path.join(folder, name)) else ""


def _kind(file: BinaryIO) -> str:
    head = file.read(8)
    file.seek(0)
    return next((kind for magic, kind in _KINDS if head.startswith(magic)), "other")


def _unopened(name: str, error: OSError) -> BadPictureError:
    reason = error.strerror or str(error)
    return BadPictureError(f"{name}: cannot be opened ({reason}). Restore it.")


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
