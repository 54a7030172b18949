"""Draws the pictures of a cell: everybody, from their first N references, in each wanted view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...models.adapter import MultiIPAdapter
from ...nodes.demo_sampling import Condition, sample_rows, weighted
from ...training.backbone import Backbone
from ..build.pictures import descriptions
from ..prompt import STEPS
from .cells import DESCRIBED, RECODED, Cell
from .people import People

_BATCH = 96


class Studio:
    """The frozen models, and what does not change from cell to cell.

    Args:
        model, vae: the demo's.
        backbone: of the model.
        features: of all of `people.pictures`, by name, [n, ...].
        cfg: guidance.
    """

    def __init__(
        self,
        model: Any,
        vae: Any,
        backbone: Backbone,
        people: People,
        features: Mapping,
        cfg: float,
    ):
        self.model, self.vae, self.backbone = model, vae, backbone
        self.people, self.features, self.cfg = people, features, cfg
        self.described = descriptions(people.pictures)

    @torch.inference_mode()
    def draw(self, cell: Cell, adapter: MultiIPAdapter | None, wanted: Tensor) -> Tensor:
        """Pictures uint8 [n, h, w, 3] of the rows `wanted`; the same noise in every cell."""
        return torch.cat([self._batch(cell, adapter, rows) for rows in wanted.split(_BATCH)])

    def _batch(self, cell: Cell, adapter: MultiIPAdapter | None, rows: Tensor) -> Tensor:
        if cell.adapter == RECODED:
            latents = self.vae.encode(
                torch.from_numpy(self.people.pictures.pixels[rows.numpy()]) / 255
            )
        else:
            latents = self.model.model.process_latent_out(self._sampled(cell, adapter, rows))
        return (self.vae.decode(latents) * 255).round().clamp(0, 255).to(torch.uint8).cpu()

    def _sampled(self, cell: Cell, adapter: MultiIPAdapter | None, rows: Tensor) -> Tensor:
        pictures = self.people.pictures
        texts = self.described if cell.adapter == DESCRIBED else pictures.captions
        text = self.backbone.encode_text([texts[row] for row in rows])
        no_text = self.backbone.encode_text([""] * len(rows))
        given, null = self._layers(cell, adapter, rows)
        return sample_rows(
            self.model,
            self.backbone,
            self._noise(rows),
            Condition(text, given),
            Condition(no_text, null),
            STEPS,
            self.cfg,
        )

    def _noise(self, rows: Tensor) -> Tensor:
        latent_format = self.model.get_model_object("latent_format")
        size = self.people.pictures.pixels.shape[1] // latent_format.spacial_downscale_ratio
        shape = (latent_format.latent_channels, size, size)
        draws = [
            torch.randn(shape, generator=torch.Generator().manual_seed(int(row))) for row in rows
        ]
        return torch.stack(draws).to(self.backbone.device)

    def _layers(self, cell: Cell, adapter: MultiIPAdapter | None, rows: Tensor) -> tuple:
        if adapter is None or cell.weight == 0:
            return [], []
        views = self.people.pictures.views
        references = self.people.references[rows // views, : cell.references]
        names = adapter.config.projection.inputs
        given = {name: self.features[name][references].to(self.backbone.device) for name in names}
        # As EncodeReferences and Apply do: as many null images as references.
        null = {
            name: self.backbone.null_features[name][:, None].expand_as(given[name])
            for name in names
        }
        return tuple(
            weighted(
                adapter.aggregate(adapter.project(features), method=cell.aggregation), cell.weight
            )
            for features in (given, null)
        )
