"""MODEL, adapter and references -> a MODEL that is steered by them."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import comfy.model_patcher
from torch import Tensor

from ...models.projection import FACE
from ...models.references import ReferenceEmbeds
from ..unet.lora import add_lora
from ..unet.routing import RowRouter
from ..unet.sites import matching_sites
from .face_features import warn_of_recogniser
from .key_values import LoadedAdapter
from .layers import layer_shares
from .patch import RegionMask, add_to_model

log = logging.getLogger("MultiIPAdapter")


@dataclass(frozen=True)
class Steering:
    """How strongly the references act, when, and where.

    Attributes:
        weight: lambda of the image attention; 0 changes nothing.
        aggregation: one of `AGGREGATIONS`, or "auto": what the adapter was made for.
        start_percent, end_percent: share of the sampling between which the references act.
        mask: where in the picture, [H, W] or [M, H, W]; None: everywhere.
        layers, layer_weights: see `layer_shares`.
        lora_weight: strength of the LoRA that FaceID files carry.
        faceid_v2_weight: share of the face's picture in FaceID-Plus v2.

    Raises:
        ValueError: a window that ends before it begins, or a weight that is no number.
    """

    weight: float = 1.0
    aggregation: str = "auto"
    start_percent: float = 0.0
    end_percent: float = 1.0
    mask: Tensor | None = None
    layers: str = "all"
    layer_weights: str = ""
    lora_weight: float = 1.0
    faceid_v2_weight: float = 1.0

    def __post_init__(self):
        _check_window(self.start_percent, self.end_percent)
        for name in ("weight", "lora_weight", "faceid_v2_weight"):
            _check_weight(name, getattr(self, name))


def steer(
    model: comfy.model_patcher.ModelPatcher,
    loaded: LoadedAdapter,
    references: ReferenceEmbeds,
    how: Steering,
) -> comfy.model_patcher.ModelPatcher:
    """A clone of `model` with the references' image attention; `model` stays as it is.

    Raises:
        ValueError: model, adapter and references do not fit each other, or `how` does not fit them.
    """
    sites = matching_sites(model, loaded.config)
    check_features(loaded, references)
    shares = layer_shares(how.layers, how.layer_weights, sites)
    if how.layer_weights.strip() and how.layers != "custom":
        log.warning("layer_weights acts with layers = custom only; got layers = %s.", how.layers)
    method = loaded.config.aggregation if how.aggregation == "auto" else how.aggregation
    if method == "learned" and not loaded.config.aggregator_heads:
        log.warning("%s has no trained aggregator: 'learned' acts as 'mean'.", loaded.name)
    dtype = model.model.get_dtype_inference()
    key_values = loaded.key_values(references, method, dtype, how.faceid_v2_weight)
    router = RowRouter(how.weight, how.start_percent, how.end_percent)
    region = None if how.mask is None else RegionMask(_masks(how.mask))
    scales = [how.weight * share if how.weight else share for share in shares]
    steered = add_to_model(model, sites, key_values, scales, router, region)
    if how.weight and any(shares):
        add_lora(steered, loaded.adapter.lora, how.lora_weight, loaded.lora_id)
    return steered


def check_features(loaded: LoadedAdapter, references: ReferenceEmbeds) -> None:
    """The references must have been encoded by the encoder that this adapter needs."""
    projection = loaded.config.projection
    if FACE in projection.inputs and references.recogniser:
        warn_of_recogniser(loaded, references.recogniser)
    for name, expected in projection.widths.items():
        found = references.features.get(name)
        if found is None or found.shape[-1] != expected:
            got = "none" if found is None else f"width {found.shape[-1]}"
            raise ValueError(
                f"The adapter {loaded.name} reads {name} of width {expected}; these references "
                f"hold {got}. Encode the images again with this adapter and its encoder "
                f"({loaded.config.image_encoder or 'a face recogniser'})."
            )


def _check_window(start: float, end: float) -> None:
    if not 0.0 <= start <= end <= 1.0:
        raise ValueError(
            f"Got start_percent {start} and end_percent {end}; expected 0 <= start_percent <= "
            "end_percent <= 1."
        )


def _check_weight(name: str, weight: float) -> None:
    if not math.isfinite(weight):
        raise ValueError(f"Got {name} {weight}; expected a number, usually between 0 and 1.5.")


def _masks(mask: Tensor) -> Tensor:
    """[M, H, W] in 0..1."""
    mask = mask.unsqueeze(0) if mask.ndim == 2 else mask
    if mask.ndim != 3 or min(mask.shape) == 0 or not mask.isfinite().all():
        raise ValueError(
            f"Got a mask of shape {tuple(mask.shape)}; expected [batch, height, width] with "
            "finite values and no side of length 0."
        )
    return mask.float()
