"""A copy of a model's UNet that autograd can work with, and what training asks of it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..host.memory import unload_models
from .sites import Site


def private_unet(
    model: comfy.model_patcher.ModelPatcher, device: torch.device, dtype: torch.dtype
) -> UNetModel:
    """A frozen copy of the UNet, with the model's LoRAs merged, that autograd can work with.

    Tensors that nodes make are inference tensors, which cannot take part in a backward pass.
    """
    unet = _loaded_copy(model) if _has_source(model) else _rebuilt(model, device)
    unet.to(device=device, dtype=dtype).requires_grad_(False)
    unet.dtype = dtype
    return unet.train(False)


def _has_source(model: comfy.model_patcher.ModelPatcher) -> bool:
    """False for a model built by hand whose weights live in memory that ComfyUI may take back."""
    dynamic = getattr(model, "is_dynamic", bool)()
    return not dynamic or getattr(model, "cached_patcher_init", None) is not None


def _loaded_copy(model: comfy.model_patcher.ModelPatcher) -> UNetModel:
    if "disable_dynamic" in inspect.signature(model.clone).parameters:
        model = model.clone(disable_dynamic=True)
    comfy.model_management.load_models_gpu([model], force_full_load=True)
    return copy.deepcopy(model.get_model_object("diffusion_model"))


def _rebuilt(model: comfy.model_patcher.ModelPatcher, device: torch.device) -> UNetModel:
    """From the model's config and its weights, one by one."""
    unload_models()
    config = model.model.model_config.unet_config
    unet = UNetModel(**config, device="cpu", operations=comfy.ops.disable_weight_init)
    names = [f"diffusion_model.{name}" for name in unet.state_dict()]
    weights = (model.patch_weight_to_device(name, device, return_weight=True) for name in names)
    unet.load_state_dict(dict(zip(unet.state_dict(), weights, strict=True)))
    return unet


def checkpoint_transformers(unet: nn.Module) -> None:
    """Recompute spatial transformers in the backward pass.

    Each gets its own copy of transformer_options: by the time of the recomputation the shared one
    names the last block, and the wrong layer's patch would be looked up.
    """

    def wrapped(forward: Callable) -> Callable:
        def run(x, context=None, transformer_options=None):
            options = dict(transformer_options or {})
            return checkpoint(
                forward, x, context, options, use_reentrant=False, preserve_rng_state=False
            )

        return run

    for module in unet.modules():
        if isinstance(module, SpatialTransformer):
            module.forward = wrapped(module.forward)


def text_weights(unet: UNetModel, sites: list[Site]) -> list[tuple[Tensor, Tensor]]:
    """W_k, W_v of every site, float32."""
    blocks = {"input": unet.input_blocks, "output": unet.output_blocks}
    weights = []
    for site in sites:
        name, number = site.block
        block = unet.middle_block if name == "middle" else blocks[name][number]
        transformer = next(m for m in block if isinstance(m, SpatialTransformer))
        attention = transformer.transformer_blocks[site.index].attn2
        weights.append((attention.to_k.weight.float(), attention.to_v.weight.float()))
    return weights
