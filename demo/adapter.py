"""The demo's adapter file: random weights in the sizes of the node `MultiIPAdapter_Demo`.

A trained bundle replaces this module and that node's weights, nothing else of the demo.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ..models.adapter import MultiIPAdapter, MultiIPAdapterConfig
from ..models.checkpoint import save_adapter
from ..models.projection import ProjectionConfig

ADAPTER_FILE = "multi_ipadapter_demo.safetensors"
ABOUT = (
    "The demo's models and its adapter have RANDOM weights. The pictures are textures; all they "
    "show is that the references steer the result."
)

# SD1.x's layout at a tenth of its width: down, up, middle.
_LAYER_DIMS = (32, 32, 64, 64, 128, 128) + (128,) * 3 + (64,) * 3 + (32,) * 3 + (128,)
_PROJECTION = ProjectionConfig("linear", num_tokens=4, output_dim=64, input_dim=48)


def write_adapter(path: Path, seed: int = 0) -> None:
    """Write the file; the same seed gives the same weights."""
    adapter = MultiIPAdapter(MultiIPAdapterConfig(_PROJECTION, _LAYER_DIMS))
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5, generator=generator)
        # Norms keep their 1; a random bias would be the same for all references.
    torch.nn.init.zeros_(adapter.image_proj.proj.bias)
    save_adapter(adapter, path)
