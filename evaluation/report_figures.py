"""Reports -> every figure that they have the numbers for, and the files of all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image

from ..figures.sheets import ranked_strip
from ..files.atomic import atomically
from ..pictures.sources import Source, picture_of
from . import figures
from .plan import LOWER_IS_BETTER
from .report import EvaluationReport, compare, write_csv, write_json
from .sheets import xy_sheet

_CONDITIONS = ("weight", "references")
_RANKED = 16  # pictures of a strip
Reports = Mapping[str, EvaluationReport]
Figure = tuple[str, Image.Image]


def named_reports(reports: Sequence[EvaluationReport], labels: str) -> dict[str, EvaluationReport]:
    """Reports by their names in the figures; a single one has none.

    Raises:
        ValueError: no report, or labels that do not name each.
    """
    if not reports:
        raise ValueError("Got no report; connect at least one.")
    names = [label.strip() for label in labels.split(",") if label.strip()]
    if len(names) not in (0, len(reports)) or len(set(names)) != len(names):
        raise ValueError(
            f"Got {len(names)} labels for {len(reports)} reports; expected different ones, one "
            "for each, or none."
        )
    if len(reports) == 1:
        return {"": reports[0]}
    return dict(
        zip(names or [f"report {i + 1}" for i in range(len(reports))], reports, strict=True)
    )


def all_figures(reports: Reports, source: Source | None, metric: str) -> Iterator[Figure]:
    """Every figure that the reports have the numbers for, by name."""
    yield "table", figures.table(reports)
    points = [point for report in reports.values() for point in report.points]
    metrics = list(dict.fromkeys(name for point in points for name in point.values))
    for along in _CONDITIONS:
        if len({point.conditions.get(along) for point in points}) < 2:
            continue
        for name in metrics:
            if any(p.values[name].value is not None for p in points if name in p.values):
                yield f"{name}_against_{along}", figures.metric_chart(reports, name, along)
    texts = next((name for name in ("text_alignment", "clip_score") if name in metrics), None)
    if texts and "image_alignment" in metrics and len(points) > 1:
        yield "alignment", figures.alignment_scatter(reports, x=texts)
    if source is not None:
        for report in reports.values():
            yield from _of_pictures(report, source, metric)
            return  # the folder is that of one report


def _of_pictures(report: EvaluationReport, source: Source, metric: str) -> Iterator[Figure]:
    rows = report.per_image
    metric = metric or next((name for row in rows for name in row["values"]), "")
    numbers = {source.name(i): i for i in range(len(source))}
    if missing := [row["image"] for row in rows if row["image"] not in numbers]:
        raise ValueError(
            f"The folder of pictures does not hold {missing[0]!r}, which the report is about; "
            "expected the folder that was evaluated."
        )
    if any(_CONDITIONS[0] in row["conditions"] for row in rows):
        yield "sheet", xy_sheet(report, source, metric)
    scored = [row for row in rows if row["values"].get(metric) is not None]
    if scored:
        sign = 1 if metric in LOWER_IS_BETTER else -1
        best = sorted(scored, key=lambda row: sign * row["values"][metric])[:_RANKED]
        pictures = [picture_of(source, numbers[row["image"]]) for row in best]
        scores = [row["values"][metric] for row in best]
        yield "best", ranked_strip(pictures, scores, title=f"best by {metric}")


def write_figures(folder: Path, reports: Reports, drawn: Mapping[str, Image.Image]) -> None:
    """Figures as PNG; each report as JSON and CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        with atomically(folder / f"{name}.png") as temporary:
            figure.save(temporary, "PNG")
    for number, report in enumerate(reports.values()):
        stem = "report" if len(reports) == 1 else f"report_{number + 1}"
        write_json(report, folder / f"{stem}.json")
        write_csv(report, folder / f"{stem}.csv")


def text_of_reports(reports: Reports) -> str:
    """All reports, and how they differ."""
    texts = [f"{name}\n{report}" if name else str(report) for name, report in reports.items()]
    return "\n\n".join([*texts, *compare(reports)])
