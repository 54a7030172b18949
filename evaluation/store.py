"""Features on disk while an evaluation runs: what is there need not be computed again."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..files.tensors import write_safetensors
from .networks import FeatureNetwork

_FORMAT = 1
_CHUNK = 256  # pictures a file; what a killed process loses at most
_OPEN_CHUNKS = 16
_LEFTOVER_SECONDS = 600.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Known:
    """A picture whose features are in the store."""

    chunk: Path
    row: int
    format: str
    width: int
    height: int


class FeatureStore:
    """Features of one network, by the fingerprint of the picture.

    Several processes may append at once: every one writes files of its own, each whole or absent.

    Args:
        folder: of all networks; each has a folder below it, named by its weights and settings.
        outputs: names of the network's outputs that are kept.
    """

    def __init__(self, folder: Path, network: FeatureNetwork, outputs: Sequence[str]):
        self.outputs = tuple(sorted(outputs))
        made_by = [_FORMAT, network.name, network.weights, network.resize, *self.outputs]
        key = hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:16]
        plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in network.name)
        self.folder = Path(folder) / f"{plain}-{key}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Known] = {}
        self._chunks: OrderedDict[Path, dict[str, Tensor]] = OrderedDict()
        self._waiting: list[tuple[list, dict[str, Tensor]]] = []
        self._remove_leftovers()
        for path in sorted(self.folder.glob("*.safetensors")):
            self._index(path)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, fingerprint: str) -> Known | None:
        """Where a picture's features lie; None when they are still to be computed."""
        return self._known.get(fingerprint)

    def append(self, pictures: Sequence[tuple], features: Mapping[str, Tensor]) -> None:
        """Add a batch; it is on disk after `flush`, or when enough has come together.

        Args:
            pictures: (fingerprint, format, width, height) of every row.
            features: by output, [rows, D] each.
        """
        kept = {name: features[name].detach().to("cpu", torch.float32) for name in self.outputs}
        self._waiting.append((list(pictures), kept))
        if sum(len(rows) for rows, _ in self._waiting) >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting.

        Raises:
            OSError: the disk is full or read-only.
        """
        if not self._waiting:
            return
        pictures = [picture for rows, _ in self._waiting for picture in rows]
        parts = [features for _, features in self._waiting]
        tensors = {name: torch.cat([part[name] for part in parts]) for name in self.outputs}
        path = self.folder / f"{uuid.uuid4().hex}.safetensors"
        try:
            write_safetensors(path, tensors, {"pictures": json.dumps(pictures)})
        except (OSError, SafetensorError) as error:
            raise OSError(
                f"Features cannot be written to {self.folder}: {error}. What was written before "
                "is kept; make room, and evaluate again."
            ) from error
        self._waiting.clear()
        self._add(path, pictures)

    def rows(self, output: str, places: Sequence[Known]) -> Tensor:
        """float32 [len(places), D]; only these files are read."""
        positions: dict[Path, list[int]] = {}
        for position, place in enumerate(places):
            positions.setdefault(place.chunk, []).append(position)
        out = None
        for path, wanted in positions.items():  # each file once, in whatever order the rows are
            chunk = self._chunk(path)[output]
            if out is None:
                out = torch.empty(len(places), chunk.shape[1])
            out[wanted] = chunk[[places[position].row for position in wanted]]
        return torch.empty(0, 0) if out is None else out

    def _chunk(self, path: Path) -> dict[str, Tensor]:
        """The tensors of a file, mapped; a few files stay open."""
        if path in self._chunks:
            self._chunks.move_to_end(path)
            return self._chunks[path]
        with safe_open(path, framework="pt", device="cpu") as file:
            self._chunks[path] = {name: file.get_tensor(name) for name in self.outputs}
        if len(self._chunks) > _OPEN_CHUNKS:
            self._chunks.popitem(last=False)
        return self._chunks[path]

    def _index(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                pictures = json.loads(file.metadata()["pictures"])
                shapes = [file.get_slice(name).get_shape() for name in self.outputs]
            if any(shape[0] != len(pictures) for shape in shapes):
                raise ValueError("rows and pictures differ in number")
            self._add(path, pictures)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("%s is damaged (%s); its pictures are computed again.", path.name, error)

    def _add(self, path: Path, pictures: Sequence[Sequence]) -> None:
        for row, (fingerprint, kind, width, height) in enumerate(pictures):
            self._known[fingerprint] = Known(path, row, kind, width, height)

    def _remove_leftovers(self) -> None:
        """Half-written files of killed processes; young ones may belong to a living process."""
        for path in self.folder.glob(".*.tmp"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _LEFTOVER_SECONDS:
                    path.unlink()


def remove_features(folder: Path) -> None:
    """Delete what stores have written below a folder, and the folder when nothing else is left."""
    for path in Path(folder).iterdir():
        if re.search(r"-[0-9a-f]{16}$", path.name) and path.is_dir():
            for chunk in path.glob("*.safetensors"):
                chunk.unlink()
            with suppress(OSError):
                path.rmdir()
    with suppress(OSError):
        Path(folder).rmdir()
