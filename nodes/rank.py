"""Node: many pictures -> the best of them by a metric, with their latents."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from comfy_api.v0_0_2 import io, ui
from torch import Tensor

from ..evaluation.figures import ranked_strip
from ..evaluation.manifest import generated_from_batches
from ..evaluation.pictures import TensorSource, picture_of
from ..evaluation.plan import LOWER_IS_BETTER, PER_IMAGE
from ..evaluation.run import Request, evaluate
from .evaluate import EvaluationProgress, cancelled
from .metric_networks import (
    CLIP_CHOICES,
    DINO_CHOICES,
    LPIPS_CHOICES,
    metric_networks,
    network_inputs,
)
from .progress_text import show_text
from .sockets import CATEGORY
from .training_progress import to_image

MIX, WEIGHTS = "mix", "identity: 1, aesthetic: 0.5, text_alignment: 0.5"
Scores = list[float | None]  # one for each picture; None: it has none
_LEAST_SPREAD = 0.01
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
        clip: str = CLIP_CHOICES[0],
        dino: str = DINO_CHOICES[0],
        lpips: str = LPIPS_CHOICES[0],
        weights: str = WEIGHTS,
    ) -> io.NodeOutput:
        _check(images, metric, latents)
        shares = parse_mix(weights) if metric == MIX else {metric: 1.0}
        asked = prompts_of(prompt, len(images))
        with metric_networks(list(shares), clip_vision, clip=clip, dino=dino, lpips=lpips) as (
            networks,
            device,
        ):

            def measured(metrics: list[str], targets: Tensor | None) -> list[Scores]:
                generated = generated_from_batches(images, references, targets, asked)
                report = evaluate(
                    Request(metrics, generated, device=device),
                    networks,
                    on_step=EvaluationProgress(),
                    cancelled=cancelled,
                )
                rows = {row["image"]: row["values"] for row in report.per_image}
                names = [generated.pictures.name(i) for i in range(len(images))]
                return [[rows.get(name, {}).get(metric) for name in names] for metric in metrics]

            found = scores_of(list(shares), measured, references, targets, len(images))
        scores = mixed(found, shares) if metric == MIX else found[metric]
        ranked = rank(scores, metric in LOWER_IS_BETTER)
        kept = ranked[:keep]
        if order != ORDERS[0]:
            kept = sorted(kept)
        values = [scores[i] for i in kept]
        without = [i for i, score in enumerate(scores) if score is None]
        shown = TensorSource(images)
        strip = to_image(
            ranked_strip(
                [picture_of(shown, i) for i in ranked + without],
                [scores[i] for i in ranked + without],
                [f"image {i}" for i in ranked + without],
                f"{metric}, {len(kept)} kept",
            )
        )
        lines = [f"{i}: {v:.4f}" for i, v in zip(kept, values, strict=True)]
        if without:
            lines.append(f"{metric} has no value for {', '.join(map(str, without))}")
        show_text(cls, "\n".join(lines))
        return io.NodeOutput(
            images[kept],
            select_latents(latents, kept),
            kept,
            values,
            strip,
            ui=ui.PreviewImage(strip, cls=cls),
        )


def scores_of(
    metrics: list[str],
    measured: Callable[[list[str], Tensor | None], list[Scores]],
    references: Tensor | None,
    targets: Tensor | None,
    count: int,
) -> dict[str, Scores]:
    """Scores of each metric; LPIPS without targets is the mean distance to the references."""
    if "lpips" not in metrics or targets is not None or references is None:
        return dict(zip(metrics, measured(metrics, targets), strict=True))
    others = [metric for metric in metrics if metric != "lpips"]
    found = dict(zip(others, measured(others, None), strict=True)) if others else {}
    distances = [
        measured(["lpips"], reference[None].expand(count, -1, -1, -1))[0]
        for reference in references
    ]
    found["lpips"] = [_mean(each) for each in zip(*distances, strict=True)]
    return found


def _mean(scores: Iterable[float | None]) -> float | None:
    """Mean of the known scores; None if none is known."""
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known else None


def parse_mix(text: str) -> dict[str, float]:
    """Weights written as "identity: 1, aesthetic: 0.5", one for each metric.

    Raises:
        ValueError: an unknown metric, or no positive number.
    """
    shares = {}
    for part in filter(None, (part.strip() for part in text.replace("\n", ",").split(","))):
        name, _, number = part.replace(":", " ").partition(" ")
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        if name not in PER_IMAGE or not (math.isfinite(share) and share > 0):
            raise ValueError(
                f"Got {part!r} in weights; expected a metric and a positive number, such as "
                f"'{WEIGHTS}'. Metrics: {', '.join(PER_IMAGE)}."
            )
        shares[name] = share
    if not shares:
        raise ValueError(f"Got no weights for metric = {MIX}; expected such as '{WEIGHTS}'.")
    return shares


def mixed(found: Mapping[str, Scores], shares: Mapping[str, float]) -> Scores:
    """Weighted mean of the metrics in standard scores over the batch, higher is better.

    A picture that one of the metrics has no value for has none. Scores that hardly differ count
    hardly: the spread is at least a hundredth of the largest.
    """
    count = len(next(iter(found.values())))
    total = [0.0] * count
    missing: set[int] = set()
    for metric, scores in found.items():
        known = [score for score in scores if score is not None]
        missing |= {i for i, score in enumerate(scores) if score is None}
        mean = sum(known) / max(1, len(known))
        spread = (sum((x - mean) ** 2 for x in known) / max(1, len(known))) ** 0.5
        spread = max(spread, _LEAST_SPREAD * max(map(abs, known), default=0.0))
        sign = -1 if metric in LOWER_IS_BETTER else 1
        for i, score in enumerate(scores):
            if score is not None and spread:
                total[i] += sign * shares[metric] * (score - mean) / spread
    weight = sum(shares[metric] for metric in found)
    return [None if i in missing else x / weight for i, x in enumerate(total)]


def prompts_of(text: str, count: int) -> str | list[str]:
    """A line for each picture, where there are as many; else one prompt for all."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines if len(lines) == count > 1 else text


def rank(scores: Scores, lower_is_better: bool) -> list[int]:
    """Indices, best first; equal ones in their order. Without a value: left out.

    Raises:
        ValueError: no picture has a value.
    """
    usable = [i for i, score in enumerate(scores) if score is not None]
    if not usable:
        raise ValueError(
            f"None of the {len(scores)} pictures can be scored: the metric has no value for any, "
            "as identity and copy_paste have none without a face. Choose another metric."
        )
    return sorted(usable, key=lambda i: scores[i] if lower_is_better else -scores[i])


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
