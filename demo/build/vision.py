"""Stage: the image encoder, taught which of many short descriptions fit a picture."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ...demo_world import world
from .differentiable import clip_layers
from .fit import Recipe, fit
from .pictures import Pictures

RECIPE = Recipe(steps=16_000, batch_size=64, learning_rate=5e-4, warmup=500, seed=3)
SHIFT, NOISE, GAIN = 6, 0.03, 0.1  # pixels, spread and share by which a batch is varied
_SIZES = [len(names) for names in (world.ATTRIBUTES | world.VIEW_FACTORS).values()]


class Contrast(nn.Module):
    """The encoder, and a vector for each description, such as 'grey hair' or 'a red cap'.

    The loss is the sigmoid one of SigLIP (arXiv 2303.15343), where a picture has many matching
    descriptions: every picture against all of them.
    """

    def __init__(self, encoder: nn.Module, width: int):
        super().__init__()
        self.encoder = encoder
        self.words = nn.Parameter(torch.randn(sum(_SIZES), width) * width**-0.5)
        self.bias = nn.Parameter(torch.full((sum(_SIZES),), -2.0))


def facts(pictures: Pictures) -> Tensor:
    """Float [n, words]: 1 where a picture shows it; hidden attributes are 0 for all values."""
    parts = []
    for column, names in enumerate(world.ATTRIBUTES.values()):
        shown = nn.functional.one_hot(torch.tensor(pictures.attributes[:, column]), len(names))
        parts.append(shown * torch.tensor(pictures.visible[:, column])[:, None])
    for column, names in enumerate(world.VIEW_FACTORS.values()):
        parts.append(nn.functional.one_hot(torch.tensor(pictures.factors[:, column]), len(names)))
    return torch.cat(parts, dim=1).float()


def train(model: Contrast, pictures: Pictures, state: Path, device: torch.device) -> None:
    """Train the encoder; the words are thrown away afterwards.

    `pictures` should show other people than the adapters are trained on: these must learn from
    features as good as those of a stranger, not better.
    """
    shown = facts(pictures)

    def loss(step: int, random: torch.Generator) -> tuple[Tensor, str]:
        rows = torch.randint(0, len(pictures), (RECIPE.batch_size,), generator=random)
        x = varied(pictures.batch(rows), random).to(device) * 4 - 2  # mean 0.5, spread 0.25
        images = model.encoder(pixel_values=x)[2].float()
        logits = images @ model.words.T + model.bias
        match = shown[rows].to(device)
        errors = nn.functional.binary_cross_entropy_with_logits(logits, match, reduction="none")
        found = ((logits > 0) * match).sum() / match.sum()
        wrong = ((logits > 0) * (1 - match)).sum() / match.sum()
        words = f"loss {errors.mean().item():.4f}, found {found:.3f}, wrong {wrong:.3f}"
        return errors.mean(), words

    with clip_layers(model.encoder):
        fit(model, loss, RECIPE, state, device)


def varied(x: Tensor, random: torch.Generator) -> Tensor:
    """Pictures [B, 3, h, w] moved a little, brighter or darker, with noise: against overfitting."""
    height, width = x.shape[2:]
    wide = nn.functional.pad(x, (SHIFT,) * 4, mode="replicate")
    starts = torch.randint(0, 2 * SHIFT + 1, (len(x), 2), generator=random).tolist()
    x = torch.stack(
        [one[:, y : y + height, z : z + width] for one, (y, z) in zip(wide, starts, strict=True)]
    )
    gain = 1 + GAIN * (2 * torch.rand(len(x), 1, 1, 1, generator=random) - 1)
    return (x * gain + NOISE * torch.randn(x.shape, generator=random)).clamp(0, 1)
