"""Node: many pictures -> the best of them by a metric, with their latents."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.v0_0_2 import io, ui
from torch import Tensor

from ...evaluation.generated import GeneratedSet
from ...evaluation.loading import CLIPS, DINOS, LPIPS, NetworkChoice
from ...evaluation.plan import PER_IMAGE
from ...evaluation.ranking import (
    MIX,
    WEIGHTS,
    Batch,
    Ranking,
    Scores,
    prompts_of,
    scores_of_batch,
    shares_of,
)
from ...evaluation.report import EvaluationReport
from ...evaluation.request import Request
from ...evaluation.run import evaluate
from ..host.images import to_image
from ..host.progress import Progress, cancelled, show_text
from ..host.wires import CATEGORY
from .metric_networks import metric_networks, network_inputs

ORDERS = ("best first", "as they came")


class RankPictures(io.ComfyNode):
    """Keep the best pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MultiIPAdapter_Rank",
            display_name="Rank Pictures",
            category=CATEGORY,
            description="Scores every picture of a batch and keeps the best. Latents follow their "
            "pictures. Networks are read from models/metrics; nothing is downloaded.",
            search_aliases=["best of n", "aesthetic score", "sort images", "pick best"],
            inputs=[
                io.Image.Input("images", tooltip="Pictures to choose from, as one batch."),
                io.Combo.Input(
                    "metric",
                    options=[*PER_IMAGE, MIX],
                    default="image_alignment",
                    tooltip="For lpips and copy_paste lower is better, and they are ranked that "
                    "way. mix: several metrics, as weights says.",
                ),
                io.Int.Input(
                    "keep",
                    default=1,
                    min=1,
                    max=4096,
                    optional=True,
                    tooltip="How many images to keep.",
                ),
                io.Combo.Input(
                    "order",
                    options=list(ORDERS),
                    default=ORDERS[0],
                    optional=True,
                    tooltip="Order of the pictures that are kept.",
                ),
                io.Image.Input(
                    "references",
                    optional=True,
                    tooltip="For image_alignment, dino, identity and copy_paste, and for lpips "
                    "without targets; they serve all.",
                ),
                io.Image.Input(
                    "targets", optional=True, tooltip="For lpips: a picture for each image."
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="For text_alignment and clip_score; one, or a line for each image.",
                ),
                io.Latent.Input(
                    "latents", optional=True, tooltip="Latents of the images, in the same order."
                ),
                *network_inputs(),
                io.String.Input(
                    "weights",
                    default=WEIGHTS,
                    optional=True,
                    tooltip="For mix: metrics and their weights. Every metric is first put into "
                    "standard scores over the batch, so that the weights are comparable.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="Images that are kept."),
                io.Latent.Output(
                    display_name="latents",
                    tooltip="Latents of the kept images; nothing if none came in.",
                ),
                io.Int.Output(
                    display_name="indices",
                    is_output_list=True,
                    tooltip="Where the kept images were in the batch, from 0.",
                ),
                io.Float.Output(
                    display_name="scores", is_output_list=True, tooltip="Scores of the kept images."
                ),
                io.Image.Output(display_name="strip", tooltip="All images, best first."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        metric: str,
        keep: int = 1,
        order: str = ORDERS[0],
        references: Tensor | None = None,
        targets: Tensor | None = None,
        prompt: str = "",
        latents: dict | None = None,
        clip_vision=None,
        clip: str = CLIPS[0],
        dino: str = DINOS[0],
        lpips: str = LPIPS[0],
        weights: str = WEIGHTS,
    ) -> io.NodeOutput:
        _check(images, metric, latents)
        shares = shares_of(metric, weights)
        batch = Batch(images, references, targets, prompts_of(prompt, len(images)))
        found = measured(batch, list(shares), NetworkChoice(clip, dino, lpips), clip_vision)
        ranking = Ranking.of(metric, found, shares)
        kept = ranking.best[:keep] if order == ORDERS[0] else sorted(ranking.best[:keep])
        strip = to_image(ranking.strip(images, f"{metric}, {len(kept)} kept"))
        show_text(cls, ranking.text(kept))
        scores = [ranking.scores[i] for i in kept]
        outputs = images[kept], select_latents(latents, kept), kept, scores, strip
        return io.NodeOutput(*outputs, ui=ui.PreviewImage(strip, cls=cls))


def measured(
    batch: Batch, metrics: list[str], choice: NetworkChoice, clip_vision: Any
) -> dict[str, Scores]:
    """Scores of each metric, with ComfyUI's device, progress and interruption."""
    with metric_networks(metrics, choice, clip_vision) as (networks, device):

        def report_on(metrics: list[str], generated: GeneratedSet) -> EvaluationReport:
            request = Request(metrics, generated, device=device)
            return evaluate(request, networks, on_step=Progress(), cancelled=cancelled)

        return scores_of_batch(batch, metrics, report_on)


def select_latents(latents: dict | None, indices: list[int]) -> dict | None:
    """The latents of some pictures; everything that has a row for each picture follows."""
    if latents is None:
        return None
    count = len(latents["samples"])
    return {
        key: value[indices] if isinstance(value, Tensor) and len(value) == count else value
        for key, value in latents.items()
    } | _batch_index(latents, indices)


def _batch_index(latents: dict, indices: list[int]) -> dict:
    """Which noise of a batch each latent had; core's samplers read it."""
    there = latents.get("batch_index")
    return {} if there is None else {"batch_index": [there[i] for i in indices]}


def _check(images: Tensor, metric: str, latents: dict | None) -> None:
    if metric not in (*PER_IMAGE, MIX):
        raise ValueError(f"Got metric {metric!r}; expected one of {', '.join((*PER_IMAGE, MIX))}.")
    if latents is not None and len(latents["samples"]) != len(images):
        raise ValueError(
            f"Got {len(latents['samples'])} latents for {len(images)} images; expected one for "
            "each, in the same order."
        )
    if not torch.isfinite(images).all():
        raise ValueError("The images hold NaN or infinite values. Check the node before.")
