"""Pictures of a sweep, drawn by ComfyUI's models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...evaluation.sweep import Shot
from ...models.references import ReferenceEmbeds
from ..host.drawing import Drawing, draw, encode_prompt
from ..host.images import to_picture
from ..steering.key_values import LoadedAdapter
from ..steering.steer import Steering, steer
from ..steering.vision import encode, encode_null


@dataclass(frozen=True)
class Checkpoint:
    """What draws: MODEL, CLIP and VAE."""

    model: Any
    clip: Any
    vae: Any


@dataclass(frozen=True)
class Given:
    """What the references are read and joined with.

    Attributes:
        clip_vision: the encoder that the adapter needs.
        aggregation: how references are joined; "auto": as the adapter was trained.
        fit: how a reference becomes square.
    """

    loaded: LoadedAdapter
    clip_vision: Any
    aggregation: str
    fit: str


@dataclass(frozen=True)
class SweepDrawer:
    """Draws a prompt with some references, at some weight."""

    checkpoint: Checkpoint
    given: Given
    negative: str
    how: Drawing

    def encode(self, pictures: Sequence[Tensor]) -> ReferenceEmbeds:
        """Pictures [H, W, 3] of one identity."""
        encoder = self.given.clip_vision
        names = tuple(self.given.loaded.config.projection.inputs)
        images = {f"reference {i + 1}": x[None] for i, x in enumerate(pictures)}
        features = encode(encoder, images, self.given.fit, names, show_progress=False)
        return ReferenceEmbeds(features, encode_null(encoder, names), torch.ones(len(pictures)))

    def draw(self, references: ReferenceEmbeds, prompt: str, shot: Shot) -> Image.Image:
        """One picture."""
        model, vae = self.checkpoint.model, self.checkpoint.vae
        if shot.weight:
            some = references.first(shot.count)
            how = Steering(weight=shot.weight, aggregation=self.given.aggregation)
            model = steer(model, self.given.loaded, some, how)
        positive = encode_prompt(self.checkpoint.clip, prompt)
        picture = draw(model, vae, positive, self._negative, self.how, shot.seed)
        return to_picture(picture)

    @cached_property
    def _negative(self) -> list:
        return encode_prompt(self.checkpoint.clip, self.negative)
