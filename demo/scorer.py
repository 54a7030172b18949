"""Judges pictures of the demo world: who is it, and in what situation. Never used to condition.

A small residual network trained apart from the models that draw (other identities, other
weights), with a classifier for each attribute and view factor and an identity embedding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..models.files import read_tensors
from . import world

_WIDTHS = (32, 64, 128, 192)
EMBEDDING = 64


class Judgement(NamedTuple):
    """What the scorer says of B pictures.

    Attributes:
        features: [B, 192], for FID and KID.
        attributes: a tensor [B, values] of logits for each of `world.ATTRIBUTES`.
        factors: the same for each of `world.VIEW_FACTORS`.
        identity: unit vectors [B, 64]; the cosine tells how much two pictures look like one person.
    """

    features: Tensor
    attributes: list[Tensor]
    factors: list[Tensor]
    identity: Tensor


class Block(nn.Module):
    """Two 3x3 convolutions with a residual; halves the picture when `stride` is 2."""

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.first = nn.Conv2d(before, width, 3, stride, 1)
        self.second = nn.Conv2d(width, width, 3, 1, 1)
        self.skip = nn.Conv2d(before, width, 1, stride)
        self.norms = nn.ModuleList([nn.GroupNorm(8, before), nn.GroupNorm(8, width)])

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, h, w] to [B, width, h / stride, w / stride]."""
        inner = self.first(nn.functional.silu(self.norms[0](x)))
        return self.skip(x) + self.second(nn.functional.silu(self.norms[1](inner)))


class Scorer(nn.Module):
    """Pictures [B, 3, 128, 128] in 0 .. 1 to a `Judgement`."""

    def __init__(self):
        super().__init__()
        self.sizes = [len(names) for names in (world.ATTRIBUTES | world.VIEW_FACTORS).values()]
        self.stem = nn.Conv2d(3 * 4, _WIDTHS[0], 3, 1, 1)
        pairs = zip((_WIDTHS[0], *_WIDTHS), _WIDTHS, strict=False)
        self.blocks = nn.Sequential(*(Block(a, b, 2) for a, b in pairs))
        self.norm = nn.GroupNorm(8, _WIDTHS[-1])
        places = (128 // 32) ** 2
        self.features = nn.Linear(_WIDTHS[-1] * places, _WIDTHS[-1])
        self.classes = nn.Linear(_WIDTHS[-1], sum(self.sizes))
        self.identity = nn.Linear(_WIDTHS[-1], EMBEDDING)

    def forward(self, pictures: Tensor) -> Judgement:
        """Shapes: see `Judgement`."""
        x = self.blocks(self.stem(nn.functional.pixel_unshuffle(pictures * 4 - 2, 2)))
        x = nn.functional.silu(self.norm(x)).flatten(1)
        features = nn.functional.silu(self.features(x))
        logits = list(self.classes(features).split(self.sizes, dim=1))
        embedding = nn.functional.normalize(self.identity(features).float(), dim=1)
        count = len(world.ATTRIBUTES)
        return Judgement(features, logits[:count], logits[count:], embedding)


@torch.inference_mode()
def judge(scorer: Scorer, pictures: Tensor, batch: int = 64) -> Judgement:
    """Judge any number of pictures, uint8 [n, 128, 128, 3], a batch at a time."""
    parts = [
        scorer(part.permute(0, 3, 1, 2).contiguous().float() / 255)
        for part in pictures.split(batch)
    ]
    return Judgement(
        torch.cat([part.features for part in parts]),
        [torch.cat(column) for column in zip(*(p.attributes for p in parts), strict=True)],
        [torch.cat(column) for column in zip(*(p.factors for p in parts), strict=True)],
        torch.cat([part.identity for part in parts]),
    )


def bundled_scorer() -> Scorer:
    """The scorer that comes with the pack.

    Raises:
        FileNotFoundError: the pack came without its weights.
    """
    scorer = Scorer()
    tensors, _about = read_tensors(world.WEIGHTS_FOLDER / "scorer.safetensors")
    scorer.load_state_dict({name: value.float() for name, value in tensors.items()})
    return scorer.eval().requires_grad_(False)
