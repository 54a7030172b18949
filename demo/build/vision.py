"""Stage: the image encoder, taught by contrast of pictures with descriptions of what they show."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from .. import world
from .differentiable import clip_layers
from .fit import Recipe, fit
from .pictures import Pictures

RECIPE = Recipe(steps=4_000, batch_size=128, learning_rate=1e-3, seed=3)
MOST_WORDS = 3
_SIZES = [len(names) for names in (world.ATTRIBUTES | world.VIEW_FACTORS).values()]


class Contrast(nn.Module):
    """The encoder, and one vector for each word that a description may use.

    A description is a few facts, such as 'grey hair' or 'a red cap', and its embedding the sum of
    their vectors. The loss is the sigmoid one of SigLIP (arXiv 2303.15343), with a pair positive
    when the picture shows all that the description says.
    """

    def __init__(self, encoder: nn.Module, width: int):
        super().__init__()
        self.encoder = encoder
        self.words = nn.Parameter(torch.zeros(sum(_SIZES), width))
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.bias = nn.Parameter(torch.tensor(-4.0))


def facts(pictures: Pictures) -> Tensor:
    """Float [n, words]: 1 where a picture shows it; hidden attributes are 0 for all values."""
    parts = []
    for column, names in enumerate(world.ATTRIBUTES.values()):
        shown = nn.functional.one_hot(torch.tensor(pictures.attributes[:, column]), len(names))
        parts.append(shown * torch.tensor(pictures.visible[:, column])[:, None])
    for column, names in enumerate(world.VIEW_FACTORS.values()):
        parts.append(nn.functional.one_hot(torch.tensor(pictures.factors[:, column]), len(names)))
    return torch.cat(parts, dim=1).float()


def describe(shown: Tensor, random: torch.Generator) -> Tensor:
    """1 to 3 of the facts of each picture: [B, words] of 0 and 1."""
    order = (torch.rand(shown.shape, generator=random) * shown).argsort(dim=1, descending=True)
    count = torch.randint(1, MOST_WORDS + 1, (len(shown), 1), generator=random)
    chosen = (torch.arange(shown.shape[1]) < count).float().expand_as(shown)
    return torch.zeros_like(shown).scatter(1, order, chosen) * shown


def train(model: Contrast, pictures: Pictures, state: Path, device: torch.device) -> None:
    """Train the encoder; the words are thrown away afterwards."""
    shown = facts(pictures)

    def loss(step: int, random: torch.Generator) -> tuple[Tensor, str]:
        rows = torch.randint(0, len(pictures), (RECIPE.batch_size,), generator=random)
        x = pictures.batch(rows).to(device) * 4 - 2  # mean 0.5, spread 0.25
        images = model.encoder(pixel_values=x)[2].float()
        said = describe(shown[rows], random).to(device)
        texts = said @ model.words
        match = (shown[rows].to(device) @ said.T) == said.sum(dim=1)
        logits = model.scale.exp() * images @ texts.T / images.shape[1] ** 0.5 + model.bias
        errors = nn.functional.binary_cross_entropy_with_logits(
            logits, match.float(), reduction="none"
        )
        right = (errors * match).sum() / match.sum()
        value = errors.sum() / len(rows)
        return value, f"loss {value.item():.4f}, of matching pairs {right.item():.4f}"

    with clip_layers(model.encoder):
        fit(model, loss, RECIPE, state, device)
