"""Reports that the pack has written, read back."""

from __future__ import annotations

import json
from pathlib import Path

from multi_ipadapter.evaluation.report import (
    EvaluationReport,
    NetworkUse,
    Point,
    SourceUse,
    Value,
)


def read_report(path: Path) -> EvaluationReport:
    """What `write_json` was given, less numbers that were not finite."""
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["format"] == 1
    points = [
        Point(p["conditions"], p["n"], {name: Value(**v) for name, v in p["values"].items()})
        for p in content["points"]
    ]
    networks = [NetworkUse(**use) for use in content["networks"]]
    sources = [SourceUse(**use) for use in content["sources"]]
    return EvaluationReport(
        points, content["per_image"], networks, sources, content["settings"], content["warnings"]
    )
