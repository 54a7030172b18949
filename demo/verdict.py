"""What the scorer says of a few pictures of one person."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..demo_world import world
from ..demo_world.people import portrait
from .scorer import bundled_scorer, judge

_OTHER_VIEWS = range(1000, 1004)  # never drawn, that give the person's mean embedding


def verdicts(pictures: Sequence[Image.Image], identity: int, view: int) -> list[str]:
    """For each picture of `view`: how many of the attributes it shows are right, and likeness."""
    scorer = bundled_scorer()
    said = judge(scorer, _pixels(pictures))
    real = judge(scorer, _pixels([portrait(identity, k).picture for k in _OTHER_VIEWS]))
    likeness = torch.nn.functional.normalize(real.identity.mean(0), dim=0)
    who = world.identity(world.HELD_OUT.start + identity)
    seen = torch.tensor(world.visible(who, world.view(who.index, view)))
    right = torch.stack([x.argmax(1) for x in said.attributes], dim=1) == torch.tensor(who.values)
    counts = (right & seen).sum(1).tolist()
    similar = (said.identity @ likeness).tolist()
    return [
        f"{count} of {int(seen.sum())} visible attributes right, similarity {cosine:.2f}"
        for count, cosine in zip(counts, similar, strict=True)
    ]


def _pixels(pictures: Sequence[Image.Image]) -> Tensor:
    """uint8 [n, 128, 128, 3]."""
    sized = [picture.convert("RGB").resize((128, 128)) for picture in pictures]
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in sized]))
