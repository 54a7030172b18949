"""The loss of a batch: noise, the model's target, and how each row counts (arXiv 2006.11239)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Noise(NamedTuple):
    """Noise [B, c, h, w] and timesteps int64 [B]."""

    noise: Tensor
    timesteps: Tensor


def draw_noise(
    random: torch.Generator, shape: tuple[int, ...], num_timesteps: int, noise_offset: float = 0.0
) -> Noise:
    """For a whole batch; shape [B, c, h, w], on the CPU."""
    noise = torch.randn(shape, generator=random)
    timesteps = torch.randint(0, num_timesteps, shape[:1], generator=random)
    if noise_offset:
        noise += noise_offset * torch.randn(*shape[:2], 1, 1, generator=random)
    return Noise(noise, timesteps)


def add_noise(latents: Tensor, noise: Noise, alphas_cumprod: Tensor) -> Tensor:
    """sqrt(a_t) x_0 + sqrt(1 - a_t) eps (equation 4)."""
    alpha = alphas_cumprod[noise.timesteps].view(-1, 1, 1, 1)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise.noise


def prediction_target(
    prediction: str, latents: Tensor, noise: Noise, alphas_cumprod: Tensor
) -> Tensor:
    """eps, or v = sqrt(a_t) eps - sqrt(1 - a_t) x_0 (arXiv 2202.00512)."""
    if prediction == "epsilon":
        return noise.noise
    alpha = alphas_cumprod[noise.timesteps].view(-1, 1, 1, 1)
    return alpha.sqrt() * noise.noise - (1 - alpha).sqrt() * latents


def row_losses(predicted: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of each row [B]; `mask` [B, 1, h, w] weighs the places of a row."""
    exact = torch.promote_types(predicted.dtype, torch.float32)
    error = (predicted.to(exact) - target).square().mean(dim=1, keepdim=True)  # [B, 1, h, w]
    if mask is None:
        return error.mean(dim=(1, 2, 3))
    return (error * mask).sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3)).clamp_min(1e-6)


def min_snr_weight(
    gamma: float, prediction: str, timesteps: Tensor, alphas_cumprod: Tensor
) -> Tensor:
    """Weight of each row [B]: min(SNR, gamma) / SNR, or / (SNR + 1) for v (arXiv 2303.09556)."""
    alpha = alphas_cumprod[timesteps]
    snr = alpha / (1 - alpha).clamp_min(1e-8)
    clipped = snr.clamp_max(gamma)
    return clipped / (snr if prediction == "epsilon" else snr + 1).clamp_min(1e-8)
