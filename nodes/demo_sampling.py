"""Draws many rows at once, each with references of its own, by ComfyUI's own sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.k_diffusion.sampling
import comfy.samplers
import torch
from torch import Tensor

from ..models.aggregation import Aggregated
from ..training.backbone import Backbone, Text


@torch.no_grad()
def sample_rows(
    model: Any,
    backbone: Backbone,
    noise: Tensor,
    text: Text,
    no_text: Text,
    layers: Sequence[Aggregated],
    no_layers: Sequence[Aggregated],
    steps: int,
    cfg: float,
) -> Tensor:
    """Latents [B, c, h, w]: KSampler with dpmpp_2m and the scheduler "normal", row by row.

    KSampler itself gives all pictures of a batch the same references.

    Args:
        model: MODEL of the backbone.
        noise: [B, c, h, w] of unit variance.
        text, no_text: conditioning of each row, positive and negative.
        layers, no_layers: G and U of each row, with the references and with the null image; no
            layers at all: the base model.
    """
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps)

    def denoised(x: Tensor, sigma: Tensor, **_) -> Tensor:
        level = sigma.view(-1, 1, 1, 1)
        scaled, times = sampling.calculate_input(level, x), sampling.timestep(sigma)
        halves = (text, layers), (no_text, no_layers)
        with_, without = (
            sampling.calculate_denoised(level, backbone.denoise(scaled, times, *half).float(), x)
            for half in halves
        )
        return without + cfg * (with_ - without)

    start = sampling.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), True)
    return comfy.k_diffusion.sampling.sample_dpmpp_2m(denoised, start, sigmas, disable=True)


def weighted(layers: Sequence[Aggregated], weight: float) -> list[Aggregated]:
    """The image term is linear in U: with U times lambda it is the image term times lambda."""
    return [Aggregated(keys, values * weight, bias) for keys, values, bias in layers]
