"""Weights files: read safely, identified by their content, put into a module completely."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path

from torch import Tensor, nn

from ...files.tensors import read_tensors


def file_hash(path: str | Path) -> str:
    """sha256 of a file in hexadecimal, computed once as long as the file stays as it is."""
    path = Path(path).resolve()
    stat = path.stat()
    return _hash(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _hash(path: Path, size: int, modified: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """A file's tensors as float32; whole numbers stay as they are.

    Raises:
        ValueError: damaged, not a plain dictionary of tensors, or a file that would run code.
        FileNotFoundError: there is no such file.
    """
    tensors, _ = read_tensors(path)
    for key, value in tensors.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"{Path(path).name} holds a {type(value).__name__} under {key!r}; expected "
                "tensors alone. Choose the file with the bare weights."
            )
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def load_into(
    module: nn.Module, tensors: Mapping[str, Tensor], path: str | Path, expected: str
) -> None:
    """Copy all of `tensors` into `module`, which they must fill.

    Args:
        expected: what the file should have been, for the error message.

    Raises:
        ValueError: tensors are missing, left over, or of another shape.
    """
    own = module.state_dict()
    refuse_mismatch(path, expected, own.keys() - tensors.keys(), tensors.keys() - own.keys())
    for key, value in own.items():
        if tensors[key].shape != value.shape:
            raise ValueError(
                f"{Path(path).name} is not {expected}: {key} has shape "
                f"{list(tensors[key].shape)}, expected {list(value.shape)}. Choose another file."
            )
    module.load_state_dict(dict(tensors))


def refuse_mismatch(
    path: str | Path, expected: str, missing: Collection[str], unknown: Collection[str]
) -> None:
    """Raise a ValueError when anything is missing or unknown.

    Raises:
        ValueError: names the file, what it should be, and some of the keys.
    """
    if missing or unknown:
        parts = [
            f"{what} {len(keys)} tensors ({', '.join(sorted(keys)[:3])}{', ..' * (len(keys) > 3)})"
            for what, keys in (("it lacks", missing), ("it has unknown", unknown))
            if keys
        ]
        raise ValueError(
            f"{Path(path).name} is not {expected}: {', and '.join(parts)}. Choose another file."
        )


def shape_of(
    tensors: Mapping[str, Tensor], key: str, dimensions: int, path: str | Path, expected: str
) -> tuple[int, ...]:
    """Shape of one tensor, from which a network's sizes are read.

    Raises:
        ValueError: it is missing, or has another number of dimensions.
    """
    if key not in tensors or tensors[key].ndim != dimensions or 0 in tensors[key].shape:
        got = f"of shape {list(tensors[key].shape)}" if key in tensors else "missing"
        raise ValueError(
            f"{Path(path).name} is not {expected}: {key} is {got}. Choose another file."
        )
    return tuple(tensors[key].shape)
