"""Node: pictures in pairs -> how alike they are."""

from __future__ import annotations

import comfy.model_management
import torch
from comfy_api.v0_0_2 import io
from torch import Tensor
from torch.nn import functional as F

from .metric_networks import (
    CLIP_CHOICES,
    DINO_CHOICES,
    LPIPS_CHOICES,
    metric_networks,
    network_inputs,
    pixels_of,
)
from .progress_text import show_text
from .sockets import CATEGORY

# The metric of an evaluation whose network compares two pictures.
_METRICS = {
    "clip": "image_alignment",
    "dino": "dino",
    "identity": "identity",
    "lpips": "lpips",
}
_OUTPUTS = {"clip": "image", "dino": "cls"}
_BATCH = 16


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
                    options=list(_METRICS),
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
        clip: str = CLIP_CHOICES[0],
        dino: str = DINO_CHOICES[0],
        lpips: str = LPIPS_CHOICES[0],
    ) -> io.NodeOutput:
        if metric not in _METRICS:
            raise ValueError(f"Got metric {metric!r}; expected one of {', '.join(_METRICS)}.")
        if len(others) not in (1, len(images)):
            raise ValueError(
                f"Got {len(images)} images and {len(others)} others; expected as many, or one."
            )
        first, second = pixels_of(images, "image"), pixels_of(others, "other")
        choices = {"clip": clip, "dino": dino, "lpips": lpips}
        with metric_networks([_METRICS[metric]], clip_vision, **choices) as (networks, device):
            scores = _scores(metric, networks, first, second, device).tolist()
        known = [score for score in scores if score == score]
        mean = sum(known) / len(known) if known else float("nan")
        lines = [f"{i}: {score:.4f}" for i, score in enumerate(scores)]
        text = "\n".join([f"{metric}: mean {mean:.4f} of {len(known)} pairs", *lines])
        show_text(cls, text)
        return io.NodeOutput(mean, scores, text, ui={"text": [text]})


def _scores(metric: str, networks, first: Tensor, second: Tensor, device: torch.device) -> Tensor:
    """[B] float64, NaN where there is none."""
    if metric == "lpips":
        return _distances(networks["lpips"], first, second, device)
    network = networks["face" if metric == "identity" else metric]
    a, b = (_features(network, pixels, device) for pixels in (first, second))
    if metric != "identity":
        return F.cosine_similarity(*(x[_OUTPUTS[metric]] for x in (a, b)), dim=1)
    cosines = (a["embedding"] * b["embedding"]).sum(1)  # of unit length
    return torch.where((a["found"] * b["found"]).flatten() > 0, cosines, torch.nan)


def _features(network, pixels: Tensor, device: torch.device) -> dict[str, Tensor]:
    """All outputs of a network, float64 on the CPU."""
    parts = []
    for batch in pixels.split(_BATCH):
        comfy.model_management.throw_exception_if_processing_interrupted()
        parts.append({k: x.cpu().double() for k, x in network(batch.to(device)).items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _distances(network, first: Tensor, second: Tensor, device: torch.device) -> Tensor:
    """LPIPS; the second picture takes the size of the first."""
    if second.shape[2:] != first.shape[2:]:
        second = _resized(second, tuple(first.shape[2:]))
    distances = []
    for number in range(len(first)):
        comfy.model_management.throw_exception_if_processing_interrupted()
        other = second[number if len(second) > 1 else 0][None]
        distances.append(network.distance(first[number][None].to(device), other.to(device)).cpu())
    return torch.cat(distances).double()


def _resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    resized = F.interpolate(pixels.float(), size, mode="bicubic", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)
