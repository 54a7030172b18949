"""Node: the name of a folder or file -> its pictures by identity, and a report on them."""

from __future__ import annotations

import comfy.model_management
import comfy.utils
from comfy_api.v0_0_2 import io, ui

from ...pictures.index import PictureIndex, require_pairs
from ...pictures.inspection import DatasetReport, inspect_dataset, picture_bytes
from ...pictures.open import KINDS, open_dataset
from ..host.folders import changed_at, find_dataset
from ..host.progress import show_text
from ..host.wires import CATEGORY, ReferenceDatasetSocket


class ReferenceDataset(io.ComfyNode):
    """Index pictures grouped by identity."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MultiIPAdapter_Dataset",
            display_name="Reference Dataset",
            category=CATEGORY,
            description="Pictures grouped by identity, to train on: a folder with one folder for "
            "each identity, CelebA, a JSON manifest or parquet files.",
            search_aliases=["training dataset", "celeba", "ipadapter training", "image folder"],
            inputs=[
                io.String.Input(
                    "dataset",
                    default="",
                    tooltip="Name below ComfyUI's input folder, or below a folder registered "
                    "under 'datasets'.",
                ),
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    default="auto",
                    optional=True,
                    tooltip="Layout of the dataset; auto looks at what is there.",
                ),
                io.Combo.Input(
                    "split",
                    options=["train", "valid", "test", "all"],
                    default="train",
                    optional=True,
                    tooltip="Part of a dataset that has parts (CelebA, parquet).",
                ),
                io.Boolean.Input(
                    "inspect",
                    default=False,
                    optional=True,
                    tooltip="Open every picture now to find damaged ones and duplicates.",
                ),
            ],
            outputs=[
                ReferenceDatasetSocket.Output(
                    display_name="dataset",
                    tooltip="For 'Train Multi-IPAdapter' and 'Sweep Multi-IPAdapter'.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="Identities, pictures, what was left out and why, cache size.",
                ),
            ],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, dataset: str = "", **_) -> str:
        """ComfyUI looks again when files were added or removed, or a manifest was changed."""
        try:
            return changed_at(find_dataset(dataset))
        except ValueError:
            return "missing"

    @classmethod
    def execute(
        cls, dataset: str, kind: str = "auto", split: str = "train", inspect: bool = False
    ) -> io.NodeOutput:
        report, index = inspected(open_dataset(find_dataset(dataset), kind, split), inspect)
        show_text(cls, str(report))
        return io.NodeOutput(index, str(report), ui=ui.PreviewText(str(report)))


def inspected(index: PictureIndex, deep: bool) -> tuple[DatasetReport, PictureIndex]:
    """What a dataset holds, and what of it can be used; the user may cancel.

    Raises:
        ValueError: nothing in it can be trained on.
        InterruptProcessingException: cancelled.
    """
    report, good = inspect_dataset(
        index,
        picture_bytes=picture_bytes(),
        cache_of="SD1.5 at 512 pixels, CLIP-ViT-H hidden states",
        deep=deep,
        on_progress=comfy.utils.ProgressBar(len(index)).update_absolute,
        should_stop=comfy.model_management.processing_interrupted,
    )
    comfy.model_management.throw_exception_if_processing_interrupted()
    return report, require_pairs(good)
