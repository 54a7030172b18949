"""Node: pictures in pairs -> how alike they are."""

from __future__ import annotations

from comfy_api.v0_0_2 import io
from torch import Tensor

from ...evaluation.loading import CLIPS, DINOS, LPIPS, NetworkChoice
from ...evaluation.pair_scores import PAIR_METRICS, PairScorer, mean_of, text_of_pairs
from ..host.images import pixels_of
from ..host.progress import cancelled, show_text
from ..host.wires import CATEGORY
from .metric_networks import metric_networks, network_inputs


class ScorePairs(io.ComfyNode):
    """Compare pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MultiIPAdapter_Score",
            display_name="Score Pairs",
            category=CATEGORY,
            description="Similarity of pictures, pair by pair: cosine of CLIP, DINO or face "
            "features (higher is more alike), or LPIPS distance (lower is more alike).",
            search_aliases=["similarity", "LPIPS", "CLIP similarity", "face similarity"],
            inputs=[
                io.Image.Input("images", tooltip="Pictures to be scored."),
                io.Image.Input(
                    "others", tooltip="As many as images, or one that all are compared with."
                ),
                io.Combo.Input(
                    "metric",
                    options=list(PAIR_METRICS),
                    default="clip",
                    tooltip="lpips is a distance; the others are cosines.",
                ),
                *network_inputs(),
            ],
            outputs=[
                io.Float.Output(
                    display_name="mean", tooltip="Mean over the pairs that have a score."
                ),
                io.Float.Output(
                    display_name="scores",
                    is_output_list=True,
                    tooltip="Score of every pair; NaN where a picture shows no face.",
                ),
                io.String.Output(display_name="text", tooltip="The mean, and each pair."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        others: Tensor,
        metric: str,
        clip_vision=None,
        clip: str = CLIPS[0],
        dino: str = DINOS[0],
        lpips: str = LPIPS[0],
    ) -> io.NodeOutput:
        _check(metric, images, others)
        pixels = pixels_of(images), pixels_of(others, "other")
        choice = NetworkChoice(clip, dino, lpips)
        with metric_networks([PAIR_METRICS[metric]], choice, clip_vision) as (networks, device):
            scores = PairScorer(networks, device, cancelled)(metric, *pixels).tolist()
        text = text_of_pairs(metric, scores)
        show_text(cls, text)
        return io.NodeOutput(mean_of(scores), scores, text, ui={"text": [text]})


def _check(metric: str, images: Tensor, others: Tensor) -> None:
    if metric not in PAIR_METRICS:
        raise ValueError(f"Got metric {metric!r}; expected one of {', '.join(PAIR_METRICS)}.")
    if len(others) not in (1, len(images)):
        raise ValueError(
            f"Got {len(images)} images and {len(others)} others; expected as many, or one."
        )
