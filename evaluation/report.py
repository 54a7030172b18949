"""What an evaluation tells: values with intervals, what they were measured with, and warnings."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..files.atomic import write_whole
from ..files.strict_json import finite

FORMAT = 1
_COLUMNS = ("metric", "value", "low", "high", "n", "detail")


@dataclass(frozen=True)
class Value:
    """One metric of one point.

    Attributes:
        value: None where it means nothing; `detail["reason"]` says why.
        low, high: confidence interval; None where no honest one is known.
        n: generated pictures behind it.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """Pictures that were made under the same conditions, such as {"weight": 0.6}."""

    conditions: Mapping[str, float | int | str]
    n: int
    values: Mapping[str, Value]


@dataclass(frozen=True)
class NetworkUse:
    """A network behind the numbers; `weights` is the sha256 of its file."""

    role: str
    name: str
    weights: str
    resize: str


@dataclass(frozen=True)
class SourceUse:
    """Pictures behind the numbers.

    Attributes:
        n: pictures used.
        sizes: "512x512" -> pictures; `formats` alike.
        skipped: [name, reason] of the others.
    """

    role: str
    n: int
    sizes: Mapping[str, int] = field(default_factory=dict)
    formats: Mapping[str, int] = field(default_factory=dict)
    skipped: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class EvaluationReport:
    """All that an evaluation found.

    Attributes:
        per_image: {"image", "identity", "prompt", "conditions", "values": {metric: value}}.
        settings: what was asked for.
    """

    points: Sequence[Point]
    per_image: Sequence[Mapping[str, Any]]
    networks: Sequence[NetworkUse]
    sources: Sequence[SourceUse]
    settings: Mapping[str, Any]
    warnings: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for strict JSON: numbers that are not finite become null."""
        return finite({"format": FORMAT, **asdict(self)})

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def write_json(report: EvaluationReport, path: str | Path) -> None:
    """Write atomically, as strict JSON."""
    text = json.dumps(report.to_dict(), indent=1, allow_nan=False, ensure_ascii=False)
    write_whole(Path(path), (text + "\n").encode("utf-8", "backslashreplace"))


def write_csv(report: EvaluationReport, path: str | Path) -> list[Path]:
    """A row for every point and metric; where there are values of pictures, `<stem>_images.csv`.

    Written for spreadsheet programs: with a byte order mark, and no text that they would run.
    """
    path = Path(path)
    names = _condition_names(report)
    rows = [
        [*_cells(point.conditions, names), metric, v.value, v.low, v.high, v.n, _detail(v.detail)]
        for point in report.points
        for metric, v in point.values.items()
    ]
    _write_table(path, [*names, *_COLUMNS], rows)
    if not report.per_image:
        return [path]
    metrics = list(dict.fromkeys(name for row in report.per_image for name in row["values"]))
    images = [
        [
            row["image"],
            row["identity"],
            row["prompt"],
            *_cells(row["conditions"], names),
            *_cells(row["values"], metrics),
        ]
        for row in report.per_image
    ]
    beside = path.with_name(f"{path.stem}_images.csv")
    _write_table(beside, ["image", "identity", "prompt", *names, *metrics], images)
    return [path, beside]


def compare(reports: Mapping[str, EvaluationReport]) -> list[str]:
    """Why numbers of these reports cannot be compared with each other; empty: nothing is known."""
    if len(reports) < 2:
        return []
    warnings = _numbers_of_pictures(reports)
    metrics = set.intersection(*({m for _, m in _values(r, "n")} for r in reports.values()))
    for setting, (changed, why) in _SETTINGS.items():
        if not changed or changed & metrics:
            used = {
                name: "none" if report.settings[setting] is None else report.settings[setting]
                for name, report in reports.items()
                if setting in report.settings
            }
            if _differ(used):
                warnings.append(f"Different {setting} ({_listed(used)}): {why}")
    for what in _DEFINITIONS:
        found = {name: _values(report, what) for name, report in reports.items()}
        for metric in sorted(metrics):
            used = {
                name: next((v for (_, m), v in values.items() if m == metric and v), None)
                for name, values in found.items()
            }
            if _differ(used):
                warnings.append(f"{metric} has different {what} ({_listed(used)}): do not compare.")
    for role in sorted({use.role for report in reports.values() for use in report.networks}):
        used = {
            name: next((_network(use) for use in r.networks if use.role == role), None)
            for name, r in reports.items()
        }
        if _differ(used):
            warnings.append(
                f"Different networks for {role} ({_listed(used, '; ')}): do not compare its scores."
            )
    return warnings


# Setting -> the metrics that it changes (all, if empty), and how.
_SETTINGS: Mapping[str, tuple[set[str], str]] = {
    "splits": ({"is"}, "the Inception Score depends on it."),
    "fid_minimum": ({"fid"}, "one report gives FIDs that the other does not trust."),
    "mixed_sizes": (set(), "other pictures count."),
    "statistics": ({"fid", "fid_infinity"}, "FID is measured against other real pictures."),
    "confidence": (set(), "the intervals are of another width."),
}
_DEFINITIONS = ("definition", "features", "recogniser", "head", "network", "k")  # in details


def _numbers_of_pictures(reports: Mapping[str, EvaluationReport]) -> list[str]:
    """Different n where the same is measured; of the whole where nothing is."""
    warnings = []
    behind = {name: _values(report, "n") for name, report in reports.items()}
    shared = [
        key for key in next(iter(behind.values()), {}) if all(key in b for b in behind.values())
    ]
    differing = [key for key in shared if _differ({name: of[key] for name, of in behind.items()})]
    if differing:
        conditions, metric = differing[0]
        at = ", ".join(f"{name} = {value}" for name, value in conditions) or "all pictures"
        more = f", and {len(differing) - 1} more values" if differing[1:] else ""
        counts = {name: of[differing[0]] for name, of in behind.items()}
        warnings.append(_unequal("generated", counts, f" behind {metric} of {at}{more}"))
    for source in ("real",) if shared else ("generated", "real"):
        counts = {name: _count(report, source) for name, report in reports.items()}
        if _differ(counts):
            warnings.append(_unequal(source, counts))
    return warnings


def _unequal(source: str, counts: Mapping[str, int | None], where: str = "") -> str:
    return (
        f"Different numbers of {source} pictures ({_listed(counts)}){where}: FID, precision, "
        "recall and Inception Score depend on it. Compare them at equal n only."
    )


def _values(report: EvaluationReport, what: str) -> dict[tuple, Any]:
    """By conditions and metric: n, or something of the detail."""
    return {
        (tuple(sorted(point.conditions.items())), metric): value.n
        if what == "n"
        else value.detail.get(what)
        for point in report.points
        for metric, value in point.values.items()
    }


def _differ(used: Mapping[str, Any]) -> bool:
    """Whether what is known differs; None is unknown."""
    return len({value for value in used.values() if value is not None}) > 1


def _listed(used: Mapping[str, Any], between: str = ", ") -> str:
    return between.join(f"{name}: {value}" for name, value in used.items() if value is not None)


def _network(use: NetworkUse) -> str:
    return f"{use.name} {use.weights[:12]}, resize {use.resize}"


def _count(report: EvaluationReport, role: str) -> int | None:
    return next((use.n for use in report.sources if use.role == role), None)


def _condition_names(report: EvaluationReport) -> list[str]:
    return list(dict.fromkeys(name for point in report.points for name in point.conditions))


def _cells(values: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    return [values.get(name) for name in names]


def _detail(detail: Mapping[str, Any]) -> str:
    return "; ".join(f"{name} = {value}" for name, value in detail.items())


def _write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO(newline="")
    # Spreadsheets of some countries split at semicolons, and would run what begins behind one.
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([[_cell(value) for value in row] for row in [header, *rows]])
    write_whole(path, text.getvalue().encode("utf-8-sig", "backslashreplace"))


def _cell(value: Any) -> Any:
    """Text that begins like a formula gets an apostrophe, which spreadsheets show as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    if not isinstance(value, str):
        return value
    formula = value.lstrip().startswith(("=", "+", "-", "@")) or value.startswith(("\t", "\r"))
    return f"'{value}" if formula else value


def _lines(report: EvaluationReport) -> list[str]:
    lines = []
    for point in report.points:
        named = ", ".join(f"{name} = {value}" for name, value in point.conditions.items())
        lines.append(f"{named or 'all pictures'} (n = {point.n})")
        for metric, value in point.values.items():
            lines.append(f"  {metric:<16} {text_of(value)}")
    for use in report.networks:
        lines.append(f"{use.role}: {use.name} {use.weights[:12]}, resize {use.resize}")
    for source in report.sources:
        skipped = f", {len(source.skipped)} skipped" if source.skipped else ""
        lines.append(f"{source.role}: {source.n} pictures{skipped}")
    return lines + [f"warning: {text}" for text in report.warnings]


def text_of(value: Value) -> str:
    """A value for people: 12.3456 [12.1, 12.5]."""
    if value.value is None:
        return f"- ({value.detail.get('reason', 'no value')})"
    shown = f"{value.value:.6g}"
    if value.low is not None and value.high is not None:
        shown += f" [{value.low:.4g}, {value.high:.4g}]"
    elif value.detail.get("std") is not None:
        shown += f" (std {value.detail['std']:.3g})"
    return shown
