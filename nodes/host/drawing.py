"""One picture drawn by a MODEL, as the core sampler nodes do it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.sample
import torch
from torch import Tensor


@dataclass(frozen=True)
class Drawing:
    """Settings of the sampler; width and height in pixels."""

    width: int = 512
    height: int = 512
    steps: int = 20
    cfg: float = 7.0
    sampler: str = "euler"
    scheduler: str = "normal"


def encode_prompt(clip: Any, text: str) -> list:
    """Text -> CONDITIONING."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def draw(model: Any, vae: Any, positive: list, negative: list, how: Drawing, seed: int) -> Tensor:
    """[H, W, 3] in 0..1."""
    scale = vae.downscale_ratio
    latent = torch.zeros(1, vae.latent_channels, how.height // scale, how.width // scale)
    samples = comfy.sample.sample(
        model,
        comfy.sample.prepare_noise(latent, seed),
        how.steps,
        how.cfg,
        how.sampler,
        how.scheduler,
        positive,
        negative,
        latent,
        seed=seed,
        disable_pbar=True,
    )
    return vae.decode(samples)[0]
