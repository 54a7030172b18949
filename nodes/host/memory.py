"""The device's memory that ComfyUI's models and training share, and tensors that training keeps."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import comfy.model_management
import torch
from torch import Tensor

# Without a cache, pictures are encoded in a thread beside the loop; ComfyUI's loading of models is
# not made for two at once.
LOADING = threading.RLock()


def unload_models() -> None:
    """Leave the device to the private UNet; ComfyUI loads a model again where it is used."""
    with LOADING:
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()


def copies_for_autograd(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that autograd may save; what nodes make are inference tensors, which it may not."""
    with torch.inference_mode(False):
        return {name: tensor.clone() for name, tensor in tensors.items()}
