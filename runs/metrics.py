"""What a run tells: metrics as JSON lines, and as TensorBoard events where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..files.atomic import atomically
from ..files.strict_json import finite
from .state import disk_errors

VALIDATION = ("matched", "none", "shuffled")  # what a validation compares


class MetricsFile:
    """metrics.jsonl of a run; lines after the step that a run resumes from are dropped."""

    def __init__(self, folder: Path, resumed_from: int = 0):
        self.path = folder / "metrics.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        # A run from the start validates at step 0 again.
        kept = [e for e in read_metrics(self.path) if resumed_from and e["step"] <= resumed_from]
        with disk_errors(self.path), atomically(self.path) as temporary:
            temporary.write_text("".join(map(_line, kept)), encoding="utf-8")
        self._events = _tensorboard(folder, resumed_from)

    def close(self) -> None:
        """Write out what is buffered."""
        if self._events is not None:
            self._events.close()

    def step(self, values: dict[str, Any]) -> None:
        """Write a report of the loop."""
        self._write("train", values)

    def validation(self, values: dict[str, Any]) -> None:
        """Write a validation."""
        self._write("validation", values)

    def _write(self, kind: str, values: dict[str, Any]) -> None:
        with disk_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(_line({"kind": kind} | values))
        if self._events is not None:
            for name, value in _scalars(values):
                self._events.add_scalar(f"{kind}/{name}", value, values["step"])


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(finite(entry), allow_nan=False) + "\n"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a metrics file; a line cut off by a crash is left out."""
    if not path.is_file():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries


def curves(entries: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Curves of a run for the charts: loss, and the validation's three."""
    train = [
        (entry["step"] - len(entry["losses"]) + 1 + i, loss)
        for entry in entries
        if entry["kind"] == "train"
        for i, loss in enumerate(entry["losses"])
    ]
    checks = [entry for entry in entries if entry["kind"] == "validation"]
    return {"loss": train} | {
        name: [(e["step"], e[name]["mean"]) for e in checks if e[name]["mean"] is not None]
        for name in VALIDATION
    }


def _scalars(values: dict[str, Any]) -> list[tuple[str, float]]:
    flat = [(k, v) for k, v in values.items() if isinstance(v, float)]
    return flat + [(k, v["mean"]) for k, v in values.items() if isinstance(v, dict)]


def _tensorboard(folder: Path, resumed_from: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_from + 1)
