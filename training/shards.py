"""One file of the feature cache: rows of pictures, memory-mapped, with a checksum for every row."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..files.tensors import write_safetensors

_DTYPES = {"F16": torch.float16, "I8": torch.int8, "I64": torch.int64}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_CRC = "crc32."

Layout = Mapping[str, tuple[str, tuple[int, ...]]]  # name -> dtype, shape of one row


class DamagedShardError(ValueError):
    """A shard that must be made anew."""


def layout_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of a row of each tensor [rows, ...]."""
    return {name: (_NAMES[t.dtype], tuple(t.shape[1:])) for name, t in tensors.items()}


def empty_shard(layout: Layout, rows: int) -> dict[str, Tensor]:
    """Zeros to be filled, [rows, ...] each."""
    return {
        name: torch.zeros(rows, *shape, dtype=_DTYPES[dtype])
        for name, (dtype, shape) in layout.items()
    }


def row_bytes(layout: Layout) -> int:
    """What one picture takes."""
    return sum(
        torch.empty(shape, dtype=_DTYPES[dtype], device="meta").nbytes + 8
        for dtype, shape in layout.values()
    )


def write_shard(path: Path, tensors: Mapping[str, Tensor], bad: Mapping[int, str]) -> None:
    """Write atomically; `bad` are the rows that hold nothing, and why."""
    checksums = {
        _CRC + name: torch.tensor([_crc(row) for row in tensor], dtype=torch.int64)
        for name, tensor in tensors.items()
    }
    metadata = {"bad": json.dumps({str(row): reason for row, reason in bad.items()})}
    write_safetensors(path, {**tensors, **checksums}, metadata)


def _crc(row: Tensor) -> int:
    return zlib.crc32(row.contiguous().numpy().data)


class Shard:
    """An open shard; its rows are read when they are asked for.

    `torch.from_file` maps the file and keeps no descriptor, so hundreds can be open.

    Raises:
        DamagedShardError: not a complete shard of this layout.
    """

    def __init__(self, path: Path, layout: Layout, rows: int):
        self.path = path
        try:
            header, begin = _header(path)
            self.bad = {int(k): v for k, v in json.loads(header["__metadata__"]["bad"]).items()}
            expected = _all_tensors(layout, rows)
            end = begin + max(header[name]["data_offsets"][1] for name in expected)
            if path.stat().st_size != end:
                raise ValueError(f"got {path.stat().st_size} bytes, expected {end}")
            raw = torch.from_file(str(path), shared=False, size=end, dtype=torch.uint8)
            self._tensors = {
                name: _view(raw, begin, header[name], dtype, shape)
                for name, (dtype, shape) in expected.items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise self._damaged(error) from error
        self._checked = {name: bytearray(rows) for name in layout}

    def row(self, name: str, row: int) -> Tensor:
        """One row, not to be written to; its checksum is compared the first time.

        Raises:
            DamagedShardError: the bytes on disk have changed.
        """
        values = self._tensors[name][row]
        if not self._checked[name][row]:
            if _crc(values) != int(self._tensors[_CRC + name][row]):
                raise self._damaged(f"checksum of {name}, row {row}")
            self._checked[name][row] = 1
        return values

    def _damaged(self, reason: object) -> DamagedShardError:
        return DamagedShardError(
            f"{self.path.name} in {self.path.parent} is damaged ({reason}). Delete this file and "
            "build the cache again: only what is missing is made anew."
        )


def _header(path: Path) -> tuple[dict, int]:
    """The safetensors header, and where the data begin."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > os.fstat(file.fileno()).st_size:
            raise ValueError("the header is cut off")
        return json.loads(file.read(length)), 8 + length


def _all_tensors(layout: Layout, rows: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    tensors = {name: (dtype, (rows, *shape)) for name, (dtype, shape) in layout.items()}
    return tensors | {_CRC + name: ("I64", (rows,)) for name in layout}


def _view(raw: Tensor, begin: int, entry: dict, dtype: str, shape: tuple[int, ...]) -> Tensor:
    if entry["dtype"] != dtype or tuple(entry["shape"]) != shape:
        raise ValueError(f"got {entry['dtype']} {entry['shape']}, expected {dtype} {list(shape)}")
    first, last = entry["data_offsets"]
    return raw[begin + first : begin + last].view(_DTYPES[dtype]).view(shape)
