"""Stage: the autoencoder, 128 px -> 8 x 8 latents of unit variance."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from .fit import Recipe, fit
from .pictures import Pictures

RECIPE = Recipe(steps=14_000, batch_size=8, learning_rate=1e-3, seed=1)
# Weighs a latent's mean KL divergence (nats) against the mean error of a colour in -1 .. 1: the
# latents get noise of some per cent of their spread, and small errors of the UNet do no harm.
KL_WEIGHT = 3e-4
FIRST_LOG_VARIANCE = -4.0  # of the latents' noise, which would otherwise drown all at the start


def train(model: nn.Module, pictures: Pictures, state: Path, device: torch.device) -> None:
    """Train, then fold the latents' mean and spread into the 1 x 1 convolutions around them."""

    def loss(step: int, random: torch.Generator) -> tuple[Tensor, str]:
        rows = torch.randint(0, len(pictures), (RECIPE.batch_size,), generator=random)
        x = pictures.batch(rows).to(device) * 2 - 1
        moments = model.quant_conv(model.encoder(model.fold(x))).float()
        mean, log_variance = moments.chunk(2, dim=1)
        log_variance = log_variance.clamp(-20, 10)
        noise = torch.randn(mean.shape, generator=random).to(device)
        decoded = model.decode(mean + (0.5 * log_variance).exp() * noise).float()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        error = decoded - x
        value = (detail(x) * (error.abs() + 2 * error.square())).mean()
        words = f"error {error.abs().mean().item():.4f}, KL {divergence.item():.3f}"
        return value + KL_WEIGHT * divergence, words

    nn.init.constant_(model.quant_conv.bias[len(model.quant_conv.bias) // 2 :], FIRST_LOG_VARIANCE)
    fit(model, loss, RECIPE, state, device)
    standardise(model, pictures, device)


@torch.no_grad()
def detail(x: Tensor) -> Tensor:
    """How much a place differs from its surroundings, 1 or more [B, 1, h, w].

    Freckles and brows cover few pixels, so that without it their loss would cost next to nothing.
    """
    around = nn.functional.avg_pool2d(x, 9, 1, 4, count_include_pad=False)
    found = nn.functional.max_pool2d((x - around).abs().mean(1, keepdim=True), 5, 1, 2)
    return 1 + found / found.mean(dim=(1, 2, 3), keepdim=True)


@torch.no_grad()
def standardise(model: nn.Module, pictures: Pictures, device: torch.device) -> None:
    """Give each latent channel mean 0 and variance 1, without changing what is decoded."""
    random = torch.Generator().manual_seed(RECIPE.seed)
    rows = torch.randint(0, len(pictures), (2_048,), generator=random)
    batches = [
        model.encode(pictures.batch(part).to(device) * 2 - 1)
        for part in rows.split(RECIPE.batch_size)
    ]
    latents = torch.cat(batches).transpose(0, 1).flatten(1).double()
    mean, spread = latents.mean(dim=1), latents.std(dim=1)
    out, back = model.quant_conv, model.post_quant_conv
    channels = len(mean)
    out.weight[:channels] /= spread.view(-1, 1, 1, 1).float()
    out.bias[:channels] = ((out.bias[:channels].double() - mean) / spread).float()
    out.bias[channels:] -= 2 * spread.log().float()  # the log variance, for who samples
    back.bias += (back.weight[:, :, 0, 0].double() @ mean).float()
    back.weight *= spread.view(1, -1, 1, 1).float()
