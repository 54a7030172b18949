"""Node: EVALUATION_REPORTs -> figures and files."""

from __future__ import annotations

from comfy_api.v0_0_2 import io, ui
from torch import Tensor

from ...evaluation.generated import read_generated
from ...evaluation.report import compare
from ...evaluation.report_figures import (
    all_figures,
    named_reports,
    text_of_reports,
    write_figures,
)
from ..host.folders import figures_directory, find_pictures
from ..host.images import to_image
from ..host.wires import CATEGORY, EvaluationReportSocket, refuse_unknown
from .report_view import report_view

MAX_REPORTS = 16


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
        named = named_reports(list(reports.values()), labels)
        source = read_generated(find_pictures(pictures, "pictures")).pictures if pictures else None
        drawn = dict(all_figures(named, source, metric))
        differences = compare(named)
        write_figures(folder, named, drawn)
        images = [to_image(figure) for figure in drawn.values()]
        shown = _previews(cls, images) | report_view(named, drawn, differences)
        return io.NodeOutput(images, text_of_reports(named), ui=shown)


def _previews(cls: type[io.ComfyNode], images: list[Tensor]) -> dict[str, list]:
    """One after the other, as their sizes differ."""
    saved = [ui.PreviewImage(image, cls=cls).as_dict()["images"] for image in images]
    return {"images": [x for each in saved for x in each]}
