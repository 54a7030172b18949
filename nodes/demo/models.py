"""Node: small trained models to try the pack with, without downloading anything."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..host.wires import CATEGORY, MultiIPAdapterSocket
from .bundle import (
    trained_adapter,
    trained_clip,
    trained_clip_vision,
    trained_unet,
    trained_vae,
)


class DemoModels(io.ComfyNode):
    """Load the demo models."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MultiIPAdapter_Demo",
            display_name="Demo Models (Multi-IPAdapter)",
            category=CATEGORY,
            description="Small models that come with the pack, in the classes of SD1.x, and an "
            "adapter trained on them. They know nothing but drawn portraits of 128 x 128 pixels, "
            "such as Demo References makes, and draw one in a second on a CPU.",
            search_aliases=["ipadapter demo", "example models", "without downloads"],
            outputs=[
                io.Model.Output(tooltip="UNet of SD1.x's layout."),
                io.Clip.Output(tooltip="Text encoder of the demo."),
                io.Vae.Output(tooltip="Autoencoder of the demo."),
                io.ClipVision.Output(tooltip="Image encoder of the demo's adapter."),
                MultiIPAdapterSocket.Output(
                    display_name="adapter", tooltip="Adapter for this UNet and image encoder."
                ),
            ],
            is_experimental=True,
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(
            trained_unet(),
            trained_clip(),
            trained_vae(),
            trained_clip_vision(),
            trained_adapter(),
        )
