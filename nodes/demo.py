"""Node: small models to try the pack with, without downloading anything."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from .demo_models import (
    DemoConfig,
    build_adapter,
    build_clip,
    build_clip_vision,
    build_unet,
    build_vae,
)
from .sockets import CATEGORY, MultiIPAdapterSocket


class DemoModels(io.ComfyNode):
    """Build the demo models."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MultiIPAdapter_Demo",
            display_name="Demo Models (Multi-IPAdapter)",
            category=CATEGORY,
            description="Tiny models with random weights in the classes of SD1.x, to see the whole "
            "graph run in seconds. They draw textures, not pictures.",
            search_aliases=["ipadapter demo", "test models", "example models"],
            inputs=[
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    # Without this, the frontend changes everything named seed after each run.
                    control_after_generate=False,
                    optional=True,
                    tooltip="Seed of the random weights.",
                ),
            ],
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
    def execute(cls, seed: int = 0) -> io.NodeOutput:
        config = DemoConfig()
        unet = build_unet(config, seed)
        return io.NodeOutput(
            unet,
            build_clip(config, seed + 1),
            build_vae(config, seed + 2),
            build_clip_vision(config, seed + 3),
            build_adapter(config, unet, seed + 4),
        )
