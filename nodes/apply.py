"""Node: MODEL, adapter and references -> a MODEL that is steered by them."""

from __future__ import annotations

import logging
import math

from comfy_api.v0_0_2 import io
from torch import Tensor

from ..models.aggregation import AGGREGATIONS
from ..models.projection import FACE
from ..models.references import ReferenceEmbeds
from .face_features import warn_of_recogniser
from .key_values import LoadedAdapter
from .layers import PRESETS, layer_shares
from .lora import add_lora
from .patch import RegionMask, add_to_model
from .routing import RowRouter
from .sockets import CATEGORY, MultiIPAdapterSocket, ReferenceEmbedsSocket
from .unet import matching_sites

log = logging.getLogger("MultiIPAdapter")


class ApplyMultiIPAdapter(io.ComfyNode):
    """Add the references' image cross-attention to a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MultiIPAdapter_Apply",
            display_name="Apply Multi-IPAdapter",
            category=CATEGORY,
            description="Adds an image cross-attention over all references to every text "
            "cross-attention of the model. The model that comes in stays as it is.",
            search_aliases=[
                "ipadapter",
                "ip-adapter apply",
                "ipadapter advanced",
                "faceid",
                "lambda",
                "personalize",
                "style transfer",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="Checkpoint of the adapter's family, SD1.x, SD2.x or SDXL; or the "
                    "model of another 'Apply Multi-IPAdapter', for two subjects.",
                ),
                MultiIPAdapterSocket.Input(
                    "adapter", tooltip="The one that the references were encoded with."
                ),
                ReferenceEmbedsSocket.Input(
                    "references",
                    tooltip="From 'Encode Reference Images' or 'Load References'.",
                ),
                io.Float.Input(
                    "weight",
                    default=1.0,
                    min=-1.0,
                    max=5.0,
                    step=0.05,
                    optional=True,
                    tooltip="Lambda: strength of the image attention. 0 changes nothing.",
                ),
                io.Combo.Input(
                    "aggregation",
                    options=["auto", *AGGREGATIONS],
                    default="auto",
                    optional=True,
                    tooltip="How the references are joined: all tokens (concat), their mean, or a "
                    "trained weighting. auto: what the adapter was made for.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Share of the sampling after which the references begin to act.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Share of the sampling after which they stop acting.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where in the picture the references act (white). A batch of masks is "
                    "dealt out to the pictures of the batch.",
                ),
                io.Combo.Input(
                    "layers",
                    options=list(PRESETS),
                    default="all",
                    optional=True,
                    tooltip="Which layers take part. style and composition: SDXL and SD1.x.",
                ),
                io.String.Input(
                    "layer_weights",
                    default="",
                    optional=True,
                    tooltip="For layers = custom: 'layer: share' entries separated by commas. A "
                    "layer is the number of a spatial transformer (6) or a block (middle_0).",
                ),
                io.Float.Input(
                    "lora_weight",
                    default=1.0,
                    min=-2.0,
                    max=2.0,
                    step=0.05,
                    optional=True,
                    tooltip="Strength of the LoRA that FaceID files carry, during the whole "
                    "sampling. It is not added at 0 or at weight = 0. Other files have no LoRA.",
                ),
                io.Float.Input(
                    "faceid_v2_weight",
                    default=1.0,
                    min=0.0,
                    max=5.0,
                    step=0.05,
                    optional=True,
                    tooltip="How much of the face's picture FaceID-Plus v2 adds to the face "
                    "embedding. Other adapters ignore it.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="To KSampler, in place of the model that came in.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        adapter: LoadedAdapter,
        references: ReferenceEmbeds,
        weight: float = 1.0,
        aggregation: str = "auto",
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        mask: Tensor | None = None,
        layers: str = "all",
        layer_weights: str = "",
        lora_weight: float = 1.0,
        faceid_v2_weight: float = 1.0,
    ) -> io.NodeOutput:
        _check_window(start_percent, end_percent)
        _check_weight("weight", weight)
        _check_weight("lora_weight", lora_weight)
        _check_weight("faceid_v2_weight", faceid_v2_weight)
        sites = matching_sites(model, adapter.config)
        check_features(adapter, references)
        shares = layer_shares(layers, layer_weights, sites)
        if layer_weights.strip() and layers != "custom":
            log.warning("layer_weights acts with layers = custom only; got layers = %s.", layers)
        method = adapter.config.aggregation if aggregation == "auto" else aggregation
        if method == "learned" and not adapter.config.aggregator_heads:
            log.warning("%s has no trained aggregator: 'learned' acts as 'mean'.", adapter.name)
        dtype = model.model.get_dtype_inference()
        key_values = adapter.key_values(references, method, dtype, faceid_v2_weight)
        router = RowRouter(weight, start_percent, end_percent)
        region = None if mask is None else RegionMask(_masks(mask))
        scales = [weight * share if weight else share for share in shares]
        patched = add_to_model(model, sites, key_values, scales, router, region)
        if weight and any(shares):
            add_lora(patched, adapter.adapter.lora, lora_weight, adapter.lora_identity)
        return io.NodeOutput(patched)


def check_features(adapter: LoadedAdapter, references: ReferenceEmbeds) -> None:
    """The references must have been encoded by the encoder that this adapter needs."""
    projection = adapter.config.projection
    if FACE in projection.inputs and references.recogniser:
        warn_of_recogniser(adapter, references.recogniser)
    for name, expected in projection.widths.items():
        found = references.features.get(name)
        if found is None or found.shape[-1] != expected:
            got = "none" if found is None else f"width {found.shape[-1]}"
            raise ValueError(
                f"The adapter {adapter.name} reads {name} of width {expected}; these references "
                f"hold {got}. Encode the images again with this adapter and its encoder "
                f"({adapter.config.image_encoder or 'a face recogniser'})."
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
