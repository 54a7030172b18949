"""Node: MODEL, adapter and references -> a MODEL that is steered by them."""

from __future__ import annotations

from comfy_api.v0_0_2 import io
from torch import Tensor

from ...models.aggregation import AGGREGATIONS
from ...models.references import ReferenceEmbeds
from ..host.wires import CATEGORY, MultiIPAdapterSocket, ReferenceEmbedsSocket
from .key_values import LoadedAdapter
from .layers import PRESETS
from .steer import Steering, steer


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
        how = Steering(
            weight=weight,
            aggregation=aggregation,
            start_percent=start_percent,
            end_percent=end_percent,
            mask=mask,
            layers=layers,
            layer_weights=layer_weights,
            lora_weight=lora_weight,
            faceid_v2_weight=faceid_v2_weight,
        )
        return io.NodeOutput(steer(model, adapter, references, how))
