"""A node for the test server: models of a whole UNet layout, tiny, with random weights.

ComfyUI loads this file from its custom_nodes folder, with the pack beside it.
"""

from __future__ import annotations

import json
import sys

_MODULE = "nodes.demo.tiny_models"


class TinyModels:
    """MODEL, CLIP, VAE, CLIP_VISION and adapter, in the order of *Demo Models*.

    `layout` is JSON of the UNet's sizes; empty: SD1.x's.
    """

    RETURN_TYPES = ("MODEL", "CLIP", "VAE", "CLIP_VISION", "MULTI_IPADAPTER")
    FUNCTION, CATEGORY = "build", "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}, "optional": {"layout": ("STRING", {"default": ""})}}

    def build(self, layout=""):
        # The pack's name within ComfyUI is the path of its folder.
        (models,) = (module for name, module in sys.modules.items() if name.endswith(_MODULE))
        config = models.DemoConfig(**({"unet": json.loads(layout)} if layout else {}))
        unet = models.build_unet(config, 0)
        rest = (models.build_clip(config, 1), models.build_vae(config, 2))
        vision = models.build_clip_vision(config, 3)
        return (unet, *rest, vision, models.build_adapter(config, unet, 4))


NODE_CLASS_MAPPINGS = {"TinyModels": TinyModels}
