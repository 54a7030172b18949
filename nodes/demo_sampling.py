"""Draws many rows at once, each with references of its own, by ComfyUI's own sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import comfy.k_diffusion.sampling
import comfy.samplers
import torch
from torch import Tensor

from ..models.aggregation import Aggregated
from ..training.backbone import Backbone, Text


class Condition(NamedTuple):
    """What the model is told of each row: its text, and G and U; no layers: the base model."""

    text: Text
    layers: Sequence[Aggregated]


@torch.no_grad()
def sample_rows(
    model: Any,
    backbone: Backbone,
    noise: Tensor,
    positive: Condition,
    negative: Condition,
    steps: int,
    cfg: float,
) -> Tensor:
    """Latents [B, c, h, w]: KSampler with dpmpp_2m and the scheduler "normal", row by row.

    KSampler itself gives all pictures of a batch the same references.

    Args:
        model: MODEL of the backbone.
        noise: [B, c, h, w] of unit variance.
        positive, negative: with the references, and with the null image.
    """
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps)

    def denoised(x: Tensor, sigma: Tensor, **_) -> Tensor:
        level = sigma.view(-1, 1, 1, 1)
        scaled, times = sampling.calculate_input(level, x), sampling.timestep(sigma)
        with_, without = (
            sampling.calculate_denoised(level, backbone.denoise(scaled, times, *each).float(), x)
            for each in (positive, negative)
        )
        return without + cfg * (with_ - without)

    start = sampling.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), True)
    return comfy.k_diffusion.sampling.sample_dpmpp_2m(denoised, start, sigmas, disable=True)


def weighted(layers: Sequence[Aggregated], weight: float) -> list[Aggregated]:
    """The image term is linear in U: with U times lambda it is the image term times lambda."""
    return [Aggregated(keys, values * weight, bias) for keys, values, bias in layers]
