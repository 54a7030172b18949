"""Stage: the text encoder, taught to tell the view from the caption."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import world
from .differentiable import clip_layers
from .fit import Recipe, fit

RECIPE = Recipe(steps=3_000, batch_size=64, learning_rate=1e-3, seed=2)


class ViewHead(nn.Module):
    """Text encoder, and a classifier for each view factor on its last token."""

    def __init__(self, encoder: nn.Module, width: int):
        super().__init__()
        self.encoder = encoder
        sizes = [len(names) for names in world.VIEW_FACTORS.values()]
        self.sizes, self.head = sizes, nn.Linear(width, sum(sizes))


def train(
    model: ViewHead,
    tokens: Callable[[list[str]], Tensor],
    encode: Callable[[Tensor], Tensor],
    state: Path,
    device: torch.device,
) -> None:
    """`tokens` makes [B, 77] of captions; `encode` gives the last token's features [B, width].

    What a caption leaves out cannot be told from it: the classifier learns how likely it is.
    """

    def loss(step: int, random: torch.Generator) -> tuple[Tensor, str]:
        people = torch.randint(0, 20_000, (RECIPE.batch_size,), generator=random).tolist()
        views = [world.view(who, 0) for who in people]
        texts = [world.caption(view, step) for view in views]
        logits = model.head(encode(tokens(texts).to(device)).float())
        truth = torch.tensor([view.values for view in views], device=device)
        errors = [
            nn.functional.cross_entropy(part, truth[:, k])
            for k, part in enumerate(logits.split(model.sizes, dim=1))
        ]
        right = [
            (part.argmax(1) == truth[:, k]).float().mean().item()
            for k, part in enumerate(logits.split(model.sizes, dim=1))
        ]
        names = " ".join(f"{n} {r:.2f}" for n, r in zip(world.VIEW_FACTORS, right, strict=True))
        return torch.stack(errors).mean(), names

    with clip_layers(model.encoder):
        fit(model, loss, RECIPE, state, device)
