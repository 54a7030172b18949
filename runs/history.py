"""A run's folder -> what a live chart of it shows, and the same numbers as a table."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .metrics import VALIDATION, curves, read_metrics

Points = list[tuple[float, float]]

MOST_POINTS = 2000  # of a curve; more than a screen is wide
_COLUMNS = ("step", "loss", "learning_rate", "gradient_norm", "samples_per_second", *VALIDATION)


def run_history(folder: Path) -> dict[str, Any]:
    """What is known of a run, as plain values for JSON; empty curves where there is no run.

    Keys: `step` (the last one that was reported), `steps` (0: not known), the curves `loss`,
    `learning_rate`, `matched`, `none`, `shuffled` as lists of (step, value), each of at most
    `MOST_POINTS` points, and `previews`, the steps of the preview pictures.
    """
    entries = read_metrics(folder / "metrics.jsonl")
    found = curves(entries) | {"learning_rate": _learning_rate(entries)}
    return {
        "step": max((entry["step"] for entry in entries), default=0),
        "steps": _steps(folder),
        "previews": _preview_steps(folder),
    } | {name: thinned(points) for name, points in found.items()}


def metrics_csv(folder: Path) -> str:
    """One row for every step that was reported or validated, with a head; empty where no value."""
    rows: dict[float, dict[str, Any]] = {}
    for entry in read_metrics(folder / "metrics.jsonl"):
        if entry["kind"] == "train":
            for step, loss in curves([entry])["loss"]:
                rows.setdefault(step, {})["loss"] = loss
            values = {name: entry[name] for name in _COLUMNS if name in entry and name != "loss"}
        else:
            values = {name: entry[name]["mean"] for name in VALIDATION}
        rows.setdefault(entry["step"], {}).update(values)
    text = io.StringIO()
    table = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows({"step": step, **rows[step]} for step in sorted(rows))
    return text.getvalue()


def thinned(points: Sequence[tuple[float, float | None]], most: int = MOST_POINTS) -> Points:
    """Means over neighbours, so that no more than `most` points are left; at their last step."""
    known = [(step, value) for step, value in points if value is not None]
    together = -(-len(known) // most)
    if together <= 1:
        return known
    groups = (known[i : i + together] for i in range(0, len(known), together))
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _learning_rate(entries: Sequence[dict[str, Any]]) -> Points:
    return [(e["step"], e["learning_rate"]) for e in entries if e["kind"] == "train"]


def _steps(folder: Path) -> int:
    try:
        return int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _preview_steps(folder: Path) -> list[int]:
    names = (re.fullmatch(r"preview-(\d{8})\.png", path.name) for path in folder.glob("preview-*"))
    return sorted(int(name[1]) for name in names if name)
