"""Node: EVALUATION_REPORTs -> figures and files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from comfy_api.v0_0_2 import io, ui
from PIL import Image

from ..evaluation import figures
from ..evaluation.manifest import read_generated
from ..evaluation.pictures import Source, picture_of
from ..evaluation.plan import LOWER_IS_BETTER
from ..evaluation.report import EvaluationReport, compare, write_csv, write_json
from ..models.files import atomically
from .evaluation_files import figures_directory, find_pictures
from .report_view import report_view
from .sockets import CATEGORY, EvaluationReportSocket, refuse_unknown
from .training_progress import to_image

MAX_REPORTS = 16
_CONDITIONS = ("weight", "references")
_RANKED = 16  # pictures of a strip
Reports = Mapping[str, EvaluationReport]
Figure = tuple[str, Image.Image]


class ReportFigures(io.ComfyNode):
    """Draw what an evaluation found."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        reports = io.Autogrow.TemplatePrefix(
            EvaluationReportSocket.Input("report", tooltip="From 'Evaluate Pictures'."),
            prefix="report_",
            min=0,
            max=MAX_REPORTS,
        )
        return io.Schema(
            node_id="MultiIPAdapter_Report",
            display_name="Evaluation Report",
            category=CATEGORY,
            description="Figures of one report or several: a table, each metric against weight "
            "and number of references with its interval, text against image alignment, a sheet of "
            "the pictures and the best of them. Also written to output/evaluation/figures, "
            "with CSV and JSON.",
            search_aliases=["plot", "figures", "csv", "metrics", "FID"],
            inputs=[
                io.Autogrow.Input(
                    "reports",
                    template=reports,
                    tooltip="From 'Evaluate Pictures'. Connect one, and the next input appears; "
                    "several are compared.",
                ),
                io.String.Input(
                    "name",
                    default="figures",
                    optional=True,
                    tooltip="Folder in output/evaluation/figures; written over if it exists.",
                ),
                io.String.Input(
                    "labels",
                    default="",
                    optional=True,
                    tooltip="Names of the reports in the figures, separated by commas.",
                ),
                io.String.Input(
                    "pictures",
                    default="",
                    optional=True,
                    tooltip="Folder of the generated pictures, for the sheet and the strip.",
                ),
                io.String.Input(
                    "metric",
                    default="",
                    optional=True,
                    tooltip="Metric by which pictures are ranked and labelled; empty: the first "
                    "that gives a value for every picture.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="figures",
                    is_output_list=True,
                    tooltip="Figures one after the other, since their sizes differ.",
                ),
                io.String.Output(display_name="text", tooltip="All reports, and how they differ."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        reports: io.Autogrow.Type,
        name: str = "figures",
        labels: str = "",
        pictures: str = "",
        metric: str = "",
        **unknown,
    ) -> io.NodeOutput:
        refuse_unknown(unknown, "reports.report_0", MAX_REPORTS, "Connect fewer reports.")
        folder = figures_directory(name)
        named = _named(list(reports.values()), labels)
        source = None
        if pictures:
            source = read_generated(find_pictures(pictures, "pictures")).pictures
        drawn = dict(all_figures(named, source, metric))
        differences = compare(named)
        text = "\n\n".join([*_texts(named), *differences])
        write_files(folder, named, drawn)
        images = [to_image(figure) for figure in drawn.values()]
        saved = [ui.PreviewImage(image, cls=cls).as_dict()["images"] for image in images]
        shown = {"images": [x for each in saved for x in each]}
        return io.NodeOutput(images, text, ui=shown | report_view(named, drawn, differences))


def _named(reports: list[EvaluationReport], labels: str) -> dict[str, EvaluationReport]:
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
        yield "sheet", figures.xy_sheet(report, source, metric)
    scored = [row for row in rows if row["values"].get(metric) is not None]
    if scored:
        sign = 1 if metric in LOWER_IS_BETTER else -1
        best = sorted(scored, key=lambda row: sign * row["values"][metric])[:_RANKED]
        pictures = [picture_of(source, numbers[row["image"]]) for row in best]
        scores = [row["values"][metric] for row in best]
        yield "best", figures.ranked_strip(pictures, scores, title=f"best by {metric}")


def write_files(folder: Path, reports: Reports, drawn: Mapping[str, Image.Image]) -> None:
    """Figures as PNG; each report as JSON and CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        with atomically(folder / f"{name}.png") as temporary:
            figure.save(temporary, "PNG")
    for number, report in enumerate(reports.values()):
        stem = "report" if len(reports) == 1 else f"report_{number + 1}"
        write_json(report, folder / f"{stem}.json")
        write_csv(report, folder / f"{stem}.csv")


def _texts(reports: Reports) -> list[str]:
    return [f"{name}\n{report}" if name else str(report) for name, report in reports.items()]
