"""Node: generated pictures, and what belongs to them -> EVALUATION_REPORT and its files."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.v0_0_2 import io, ui

from ...evaluation.figures import table
from ...evaluation.generated import GeneratedSet, generated_from_batches, read_generated
from ...evaluation.loading import CLIPS, DINOS, LPIPS, NetworkChoice
from ...evaluation.plan import METRICS, parse_metrics
from ...evaluation.report import EvaluationReport, write_csv, write_json
from ...evaluation.request import MIXED_SIZES, Request
from ...evaluation.resize import MODES
from ...evaluation.run import evaluate
from ...evaluation.store import remove_features
from ...pictures.sources import FolderSource, Source, TensorSource
from ..host.folders import (
    STATISTICS,
    STATISTICS_SUFFIX,
    changed_below,
    evaluation_directory,
    find_pictures,
)
from ..host.images import to_image
from ..host.progress import Progress, cancelled
from ..host.wires import CATEGORY, EvaluationReportSocket
from .metric_networks import metric_networks, network_inputs
from .report_view import report_view


class EvaluatePictures(io.ComfyNode):
    """Measure generated pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MultiIPAdapter_Evaluate",
            display_name="Evaluate Pictures",
            category=CATEGORY,
            description="FID, Inception Score, KID, and how well pictures match their references "
            "and prompts. Folders may lie in ComfyUI's output or input folder. Networks are read "
            "from models/metrics; nothing is downloaded. Writes a report to output/evaluation.",
            search_aliases=[
                "FID",
                "inception score",
                "KID",
                "CLIP score",
                "LPIPS",
                "metrics",
                "evaluation",
            ],
            inputs=[
                io.String.Input(
                    "generated",
                    default="",
                    optional=True,
                    tooltip="Folder of generated pictures, such as one that 'Sweep "
                    "Multi-IPAdapter' wrote. Or connect generated_images.",
                ),
                io.String.Input(
                    "real",
                    default="",
                    optional=True,
                    tooltip="Folder of real pictures, for FID, KID, CMMD, precision and recall.",
                ),
                io.String.Input(
                    "references",
                    default="",
                    optional=True,
                    tooltip="Folder of reference pictures, with a folder for each identity where "
                    "there are several. A manifest in the generated folder names them itself.",
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Prompt for pictures without one in the manifest or in a .txt beside "
                    "them. For connected pictures a line for each, or one for all.",
                ),
                io.String.Input(
                    "metrics",
                    default="fid, is, kid",
                    optional=True,
                    tooltip=f"Separated by commas: {', '.join(METRICS)}.",
                ),
                io.String.Input(
                    "name",
                    default="report",
                    optional=True,
                    tooltip="Name of the files in output/evaluation; written over if they exist.",
                ),
                io.Image.Input(
                    "generated_images",
                    optional=True,
                    tooltip="Pictures in place of the folder generated.",
                ),
                io.Image.Input(
                    "real_images", optional=True, tooltip="Pictures in place of the folder real."
                ),
                io.Image.Input(
                    "reference_images",
                    optional=True,
                    tooltip="Pictures in place of the folder references; all generated_images "
                    "share them.",
                ),
                *network_inputs(),
                io.Combo.Input(
                    "resize",
                    options=list(MODES),
                    default=MODES[0],
                    optional=True,
                    tooltip="How pictures are resized to the 299 pixels of FID's network. Compare "
                    "only results of the same mode.",
                ),
                io.Combo.Input(
                    "statistics",
                    options=["none", *folder_paths.get_filename_list(STATISTICS)],
                    default="none",
                    optional=True,
                    tooltip="File that stands for the real pictures in FID, from output/evaluation "
                    "or models/metrics. Press R after one was saved.",
                ),
                io.Boolean.Input(
                    "save_statistics",
                    default=False,
                    optional=True,
                    tooltip="Keep the real pictures' statistics as <name>.npz, which can then be "
                    "chosen above.",
                ),
                io.Combo.Input(
                    "mixed_sizes",
                    options=list(MIXED_SIZES),
                    default=MIXED_SIZES[0],
                    optional=True,
                    tooltip="Pictures of another size than most: resize them too, or skip them.",
                ),
                io.Int.Input(
                    "splits",
                    default=10,
                    min=1,
                    max=1000,
                    optional=True,
                    tooltip="Number of parts of the Inception Score; 50 pictures or more for each.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=32,
                    min=1,
                    max=4096,
                    optional=True,
                    tooltip="Pictures that a network sees at once; lower it if memory runs out.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    optional=True,
                    control_after_generate=False,
                    tooltip="Seed for the subsets of KID, the splits and the intervals.",
                ),
            ],
            outputs=[
                EvaluationReportSocket.Output(
                    display_name="report", tooltip="For 'Evaluation Report', which draws figures."
                ),
                io.String.Output(display_name="text", tooltip="All values with their warnings."),
                io.Image.Output(display_name="table", tooltip="The values as a picture."),
            ],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(
        cls,
        generated: str = "",
        real: str = "",
        references: str = "",
        statistics: str = "none",
        **_,
    ) -> str:
        """ComfyUI evaluates again when pictures were added, removed or drawn again."""
        file = folder_paths.get_full_path(STATISTICS, statistics)
        looked = [str(os.stat(file).st_mtime_ns)] if file else []
        for folder in filter(None, (generated, real, references)):
            try:
                looked.append(changed_below(find_pictures(folder, "")))
            except ValueError:
                looked.append("missing")
        return " ".join(looked)

    @classmethod
    def execute(
        cls,
        generated: str = "",
        real: str = "",
        references: str = "",
        prompt: str = "",
        metrics: str = "fid, is, kid",
        name: str = "report",
        generated_images=None,
        real_images=None,
        reference_images=None,
        clip_vision=None,
        clip: str = CLIPS[0],
        dino: str = DINOS[0],
        lpips: str = LPIPS[0],
        resize: str = MODES[0],
        statistics: str = "none",
        save_statistics: bool = False,
        mixed_sizes: str = MIXED_SIZES[0],
        splits: int = 10,
        batch_size: int = 32,
        seed: int = 0,
    ) -> io.NodeOutput:
        home, wanted = evaluation_directory(name), parse_metrics(metrics)
        made = _generated(generated, generated_images, references, reference_images, prompt)
        truth = _real(real, real_images)
        known, saved = _statistics(home, statistics, save_statistics)
        numbers: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "splits": splits}
        request = Request(wanted, made, truth, known, saved, mixed_sizes=mixed_sizes, **numbers)
        choice = NetworkChoice(clip, dino, lpips, resize)
        report = evaluate_into(home, request, choice, clip_vision)
        picture = to_image(table(report))
        shown = ui.PreviewImage(picture, cls=cls).as_dict() | report_view({"": report}, ["table"])
        return io.NodeOutput(report, str(report), picture, ui=shown)


def evaluate_into(
    home: Path, request: Request, choice: NetworkChoice, clip_vision: Any
) -> EvaluationReport:
    """Evaluate with ComfyUI's device, progress and interruption, and write the report.

    Args:
        home: path of the report's files, without suffix.
    """
    store = home.with_name(f"{home.name}.features")  # a stopped evaluation goes on from there
    with metric_networks(request.metrics, choice, clip_vision) as (networks, device):
        report = evaluate(
            replace(request, device=device),
            networks,
            store=store,
            on_step=Progress(),
            cancelled=cancelled,
        )
    remove_features(store)
    write_json(report, home.with_name(f"{home.name}.json"))
    write_csv(report, home.with_name(f"{home.name}.csv"))
    return report


def _statistics(home: Path, name: str, save: bool) -> tuple[Path | None, Path | None]:
    """The file that stands for the real pictures, and the one to write their statistics to."""
    known = None
    if name != "none":
        known = Path(folder_paths.get_full_path_or_raise(STATISTICS, name))
    return known, home.with_name(f"{home.name}{STATISTICS_SUFFIX}") if save else None


def _generated(folder: str, images, references: str, reference_images, prompt: str) -> GeneratedSet:
    """Pictures of a folder, or of the graph."""
    if bool(folder) == (images is not None):
        raise ValueError(
            f"Got {'both' if folder else 'none'} of generated and generated_images; expected one "
            "of them: the name of a folder, or connected pictures."
        )
    if images is not None:
        if references and reference_images is not None:
            raise ValueError("Got both references and reference_images; expected one of them.")
        pictures = generated_from_batches(images, reference_images, prompts=prompt)
        if references:
            pictures.references = FolderSource(find_pictures(references, "references"))
        return pictures
    if reference_images is not None:
        raise ValueError(
            "Got reference_images for a folder of generated pictures; expected the name of a "
            "folder in references, so that each identity gets its own."
        )
    beside = find_pictures(references, "references") if references else None
    return read_generated(find_pictures(folder, "generated"), beside, prompt)


def _real(folder: str, images) -> Source | None:
    if folder and images is not None:
        raise ValueError("Got both real and real_images; expected one of them.")
    if images is not None:
        return TensorSource(images, "real image")
    return FolderSource(find_pictures(folder, "real")) if folder else None
