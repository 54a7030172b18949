"""Stage: the scorer, on identities that no other model sees."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ..scorer import Scorer
from .fit import Recipe, fit
from .pictures import Pictures

RECIPE = Recipe(steps=4_000, batch_size=128, learning_rate=1e-3, seed=4)
TEMPERATURE = 0.1


def train(model: Scorer, pictures: Pictures, state: Path, device: torch.device) -> None:
    """Classify what is visible, and bring two views of one person together (arXiv 2002.05709)."""
    attributes, factors = torch.tensor(pictures.attributes), torch.tensor(pictures.factors)
    truth = torch.cat([attributes, factors], dim=1)
    shown = torch.cat([torch.tensor(pictures.visible), torch.ones_like(factors).bool()], dim=1)
    people = len(pictures) // pictures.views

    def loss(step: int, random: torch.Generator) -> tuple[Tensor, str]:
        half = RECIPE.batch_size // 2
        who = torch.randperm(people, generator=random)[:half]
        views = torch.rand(half, pictures.views, generator=random).argsort(dim=1)[:, :2]
        rows = (who[:, None] * pictures.views + views).T.flatten()  # first views, then second ones
        said = model(roughened(pictures.batch(rows), random).to(device))
        errors, right = [], []
        for column, logits in enumerate((*said.attributes, *said.factors)):
            target, seen = truth[rows, column].to(device), shown[rows, column].to(device)
            errors.append(nn.functional.cross_entropy(logits.float()[seen], target[seen]))
            right.append((logits.argmax(1) == target)[seen].float().mean())
        similar = said.identity[:half] @ said.identity[half:].T / TEMPERATURE
        same = torch.arange(half, device=device)
        contrast = nn.functional.cross_entropy(similar, same)
        contrast = contrast + nn.functional.cross_entropy(similar.T, same)
        accuracy = torch.stack(right)
        count = attributes.shape[1]
        words = (
            f"attributes {accuracy[:count].mean().item():.3f} (worst "
            f"{accuracy[:count].min().item():.3f}), view {accuracy[count:].mean().item():.3f}, "
            f"contrast {contrast.item():.3f}"
        )
        return torch.stack(errors).mean() + 0.2 * contrast, words

    fit(model, loss, RECIPE, state, device)


def roughened(x: Tensor, random: torch.Generator) -> Tensor:
    """Blur, noise and other brightness, so that judgement does not rest on fine texture."""
    kind = torch.rand(len(x), 1, 1, 1, generator=random)
    soft = nn.functional.avg_pool2d(nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.where(kind < 0.5, x.lerp(soft, 2 * kind.clamp_max(0.5)), x)
    noise = torch.randn(x.shape, generator=random)
    strength = 0.04 * torch.rand(len(x), 1, 1, 1, generator=random)
    gain = 1 + 0.1 * (torch.rand(len(x), 1, 1, 1, generator=random) - 0.5)
    return ((x + strength * noise) * gain).clamp(0, 1)
