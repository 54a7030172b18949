"""EVALUATION_REPORTs -> the rows that the front end shows on the node as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...evaluation.plan import LOWER_IS_BETTER
from ...evaluation.report import EvaluationReport, Point, Value
from ...files.strict_json import finite


def report_view(
    reports: Mapping[str, EvaluationReport], figures: Iterable[str], warnings: Iterable[str] = ()
) -> dict[str, list]:
    """Part of a node's ui output; all of it is strict JSON.

    Args:
        reports: by name; a single one may have none.
        figures: names of the pictures in the rest of the output, in their order.
        warnings: besides those of the reports.

    Returns:
        "report": [[a dict for each point and metric]], a list in the list, as ComfyUI counts
        dicts there as outputs of the graph; "warnings" and "figures": texts.
    """
    rows = [
        _row(name, point, metric, value)
        for name, report in reports.items()
        for point in report.points
        for metric, value in point.values.items()
    ]
    own = [
        f"{name}: {text}" if name else text
        for name, report in reports.items()
        for text in report.warnings
    ]
    return {"report": [rows], "warnings": [*own, *warnings], "figures": list(figures)}


def _row(name: str, point: Point, metric: str, value: Value) -> dict[str, Any]:
    return {
        "report": name,
        "conditions": finite(point.conditions),
        "metric": metric,
        "value": finite(value.value),
        "low": finite(value.low),
        "high": finite(value.high),
        "std": finite(value.detail.get("std")),
        "n": value.n,
        "better": "lower" if metric in LOWER_IS_BETTER else "higher",
        "reason": value.detail.get("reason", "") if value.value is None else "",
    }
