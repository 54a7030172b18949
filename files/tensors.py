"""Reading and writing tensor files: never runs what a file holds, never leaves half a file."""

from __future__ import annotations

import codecs
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .atomic import atomically

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
_HEAD = 512  # bytes that tell what a file is
_LFS = b"version https://git-lfs.github.com/spec/"
_PAGE = re.compile(
    rb"(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)?<(!doctype|html|head|body|\?xml)\b", re.I | re.S
)


def read_tensors(path: str | Path) -> tuple[dict, dict[str, str]]:
    """Read a `.safetensors` file or a pickled state dict.

    Returns:
        The tensors (a pickled file may nest them in dicts) and the safetensors metadata.

    Raises:
        ValueError: the file is damaged, is no tensor file, or would run code.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {path.name} in {path.parent}. Check the name, or put the file there."
        )
    pickled = path.suffix.lower() in PICKLE_SUFFIXES
    head = _read_head(path)
    _refuse_text(path, head)
    _check_suffix(path, pickled, head)
    return (_read_pickle(path), {}) if pickled else _read_safetensors(path)


def _read_head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error}. Check its permissions.") from error


def _refuse_text(path: Path, head: bytes) -> None:
    """What is saved in place of a file when a download goes wrong is text."""
    size = f"{path.name} ({path.stat().st_size} bytes)"
    if head.startswith(_LFS):
        raise ValueError(
            f"{size} is a Git LFS pointer: a note that stands for the file, not the file. Run "
            "'git lfs pull' in the clone that it came from, or download the file itself from its "
            "page."
        )
    if _PAGE.match(head):
        raise ValueError(
            f"{size} is a web page, not the file: the page that shows the file was saved, or one "
            "that asks to log in. Download it again, by the page's download button."
        )
    if len(head) >= 4 and _is_text(head):
        begins = " ".join(head.decode(errors="replace").split())[:60]
        raise ValueError(
            f"{size} is a text file that begins with {begins!r}; expected tensors. It may be a "
            "server's answer that was saved in place of the file. Download it again, or choose "
            "another file."
        )


def _is_text(head: bytes) -> bool:
    """Whether it is UTF-8, maybe cut off within a letter, without control characters."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter.isspace() or letter == "\ufeff" for letter in text)


def _check_suffix(path: Path, pickled: bool, head: bytes) -> None:
    """Files with the wrong suffix are common; either reader would call them damaged."""
    if pickled and head[4:9] == b"\0\0\0\0{":  # length of the header (8 bytes), then JSON
        raise ValueError(f"{path.name} is a safetensors file. Rename it to end in .safetensors.")
    if not pickled and head[:4] in (b"PK\3\4", b"\x80\2\x8a\n"):  # zip, older format
        raise ValueError(
            f"{path.name} is a PyTorch file that was named like a safetensors file. Rename it to "
            "end in .bin, so that it is read as what it is."
        )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path.name} ({path.stat().st_size} bytes) is not a complete safetensors file: "
            f"{error}. It may have been cut off while downloading; download it again."
        ) from error


def _read_pickle(path: Path) -> dict:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged pickles raise nearly anything
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and refused:
            raise ValueError(
                f"{path.name} holds more than tensors ({refused[1]}) and could run code when "
                "opened, so it was not opened. Use a .safetensors version of the file, or one "
                "saved as plain tensors."
            ) from error
        reason = str(error).partition("\n")[0] if isinstance(error, RuntimeError) else ""
        raise ValueError(
            f"{path.name} ({path.stat().st_size} bytes) is not a complete PyTorch file "
            f"({reason or type(error).__name__}). It may have been cut off while downloading; "
            "download it again."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path.name} holds a {type(content).__name__}; expected a dictionary of tensors. "
            "Choose another file."
        )
    return content


def write_safetensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file atomically: the old file, or the complete new one, never a part.

    Raises:
        OSError: the disk is full, say.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomically(path) as temporary:
        try:
            save_file(_independent(tensors), temporary, dict(metadata))
        except SafetensorError as error:  # what the library makes of an OSError
            if found := re.search(r"os error (\d+)", str(error)):
                raise OSError(int(found[1]), str(error)) from error
            raise


def _independent(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies without shared memory, which safetensors refuses to save."""
    return {
        key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()
    }
