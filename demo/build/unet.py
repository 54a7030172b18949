"""Stage: the base UNet, on latents and captions (v prediction on SD1.x's noise schedule)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .differentiable import small_attention
from .fit import Recipe, fit

RECIPE = Recipe(steps=30_000, batch_size=64, learning_rate=1e-3, warmup=500, ema=0.9995, seed=5)
DESCRIBED, DROP_TEXT = 0.8, 0.1  # shares of the steps; the rest reads the plain caption
# The face takes half of a picture, and nearly all that tells people apart.
_FACE_ROWS, _FACE_COLUMNS, _FACE_WEIGHT = slice(2, 7), slice(1, 7), 4.0


def train(
    unet: nn.Module,
    latents: Tensor,
    texts: Mapping[str, Tensor],
    alphas_cumprod: Tensor,
    state: Path,
    device: torch.device,
) -> None:
    """Train on latents [n, c, h, w] and, of the same rows, the encoded texts [n, 77, width]:
    mostly "described", else "plain", or "nothing" [1, 77, width], the empty one.
    """
    levels = len(alphas_cumprod)
    weight = face_weight(latents.shape[2:]).to(device)

    def loss(step: int, random: torch.Generator) -> tuple[Tensor, str]:
        count = RECIPE.batch_size
        rows = torch.randint(0, len(latents), (count,), generator=random)
        x = latents[rows].float()
        noise = torch.randn(x.shape, generator=random)
        # One time out of each of `count` equal parts: the same loss with less variance.
        part = torch.rand(count, generator=random) + torch.arange(count)
        times = (part * levels / count).long().clamp_max(levels - 1)
        kind = torch.rand(count, generator=random)[:, None, None]
        text = torch.where(kind < DESCRIBED, texts["described"][rows], texts["plain"][rows])
        text = torch.where(kind > 1 - DROP_TEXT, texts["nothing"], text).to(device)
        alpha = alphas_cumprod[times].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * x + (1 - alpha).sqrt() * noise
        target = (alpha.sqrt() * noise - (1 - alpha).sqrt() * x).to(device)
        predicted = unet(
            noisy.to(device),
            times.to(device).float(),
            context=text,
            transformer_options={"optimized_attention_override": small_attention},
        )
        errors = ((predicted.float() - target).square() * weight).mean(dim=(1, 2, 3))
        quarters = " ".join(f"{q.mean().item():.3f}" for q in errors.detach().chunk(4))
        return errors.mean(), f"loss {errors.mean().item():.4f}, by quarter of time {quarters}"

    fit(unet, loss, RECIPE, state, device)


def face_weight(size: tuple[int, int]) -> Tensor:
    """How much each position of a latent counts, 1 on average; the best prediction is the same."""
    weight = torch.ones(size)
    weight[_FACE_ROWS, _FACE_COLUMNS] = _FACE_WEIGHT
    return weight / weight.mean()
