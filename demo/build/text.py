"""Stage: the text encoder, taught to tell from a text what it says of the view and the person."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ...demo_world import description, world
from .differentiable import clip_layers
from .fit import Recipe, fit

NOT_TOLD = -100
RECIPE = Recipe(steps=3_000, batch_size=64, learning_rate=1e-3, seed=2)


DESCRIBED = 0.6  # share of the texts that tell of the person too


class FactHead(nn.Module):
    """Text encoder, and a classifier for each view factor and attribute on its last token."""

    def __init__(self, encoder: nn.Module, width: int):
        super().__init__()
        self.encoder = encoder
        names = [*world.VIEW_FACTORS.values(), *world.ATTRIBUTES.values()]
        self.sizes = [len(values) for values in names]
        self.head = nn.Linear(width, sum(self.sizes))


def train(
    model: FactHead,
    tokens: Callable[[list[str]], Tensor],
    encode: Callable[[Tensor], Tensor],
    state: Path,
    device: torch.device,
) -> None:
    """`tokens` makes [B, 77] of captions; `encode` gives the last token's features [B, width].

    Of the view a caption may leave something out, which cannot be told from it: the classifier
    learns how likely it is. Of the person only what is told counts.
    """

    def loss(step: int, random: torch.Generator) -> tuple[Tensor, str]:
        draws = torch.randint(0, 20_000, (RECIPE.batch_size,), generator=random).tolist()
        plain = torch.rand(RECIPE.batch_size, generator=random) >= DESCRIBED
        found = [
            example(who, step, bool(without)) for who, without in zip(draws, plain, strict=True)
        ]
        texts, rows = zip(*found, strict=True)
        logits = model.head(encode(tokens(list(texts)).to(device)).float())
        truth = torch.tensor(rows, device=device)
        parts = logits.split(model.sizes, dim=1)
        errors = [
            nn.functional.cross_entropy(part, truth[:, k], ignore_index=NOT_TOLD, reduction="sum")
            for k, part in enumerate(parts)
        ]
        views = len(world.VIEW_FACTORS)
        right = torch.stack([part.argmax(1) for part in parts], dim=1) == truth
        said = truth != NOT_TOLD
        shares = [
            (right & said)[:, part].sum() / said[:, part].sum()
            for part in (slice(views), slice(views, None))
        ]
        return torch.stack(errors).sum() / said.sum(), "view {:.3f}, person {:.3f}".format(*shares)

    with clip_layers(model.encoder):
        fit(model, loss, RECIPE, state, device)


def example(who: int, wording: int, plain: bool) -> tuple[str, list[int]]:
    """A text, and what it says: the values of the view, and of the attributes that it tells."""
    person, view = world.identity(who), world.view(who, 0)
    text, attributes = world.caption(view, wording), [NOT_TOLD] * len(world.ATTRIBUTES)
    if not plain:
        columns = description.told(world.visible(person, view), wording * 20_000 + who)
        text = description.described(text, person.values, columns)
        for column in columns:
            attributes[column] = person.values[column]
    return text, [*view.values, *attributes]
