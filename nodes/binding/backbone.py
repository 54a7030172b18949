"""Binds ComfyUI's MODEL, CLIP, VAE and CLIP_VISION to the engines as plain callables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor

from ...diffusion.backbone import Backbone, Text
from ...faces.analysis import FaceAnalyser
from ...models.aggregation import Aggregated
from ...models.attention import add_image_attention, attend_by_products
from ...training.config import TrainingConfig
from ..host.memory import copies_for_autograd, unload_models
from ..unet.attention import core_attention
from ..unet.kind import check_model
from ..unet.private import checkpoint_transformers, private_unet, text_weights
from ..unet.sites import Site, cross_attention_sites
from .encoders import null_features, text_encoder

LAYERS_KEY, PROBE_KEY = "multi_ipadapter_layers", "multi_ipadapter_probe"
_SMALL = 128 * 128  # logits of a head up to which products beat the fused attention on a CPU
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingAttention:
    """Attention of one layer in training: G and U come with the call, and get gradients."""

    def __init__(self, layer: int):
        self.layer = layer

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict) -> Tensor:
        text = core_attention(q, k, v, extra_options)
        layers: Sequence[Aggregated] = extra_options[LAYERS_KEY]
        if not layers:
            return text
        keys, values, bias = layers[self.layer]
        out = add_image_attention(
            text,
            q,
            keys.to(q.dtype),
            values.to(q.dtype),
            1.0,
            lambda q, k, v, mask: core_attention(q, k, v, extra_options, mask),
            bias,
        )
        if PROBE_KEY in extra_options:
            extra_options[PROBE_KEY][self.layer] = (out - text).norm() / text.norm()
        return out


class _Denoiser:
    """A private UNet as the backbone's `denoise` and `attention_ratio`."""

    def __init__(self, unet: UNetModel, sites: Sequence[Site], compiled: bool):
        self._dtype, self._count = unet.dtype, len(sites)
        self._run = torch.compile(unet) if compiled else unet
        self._replace = {(*s.block, s.index): TrainingAttention(i) for i, s in enumerate(sites)}

    def denoise(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        text: Text,
        layers: Sequence[Aggregated],
        probe: dict[int, Tensor] | None = None,
    ) -> Tensor:
        options = {
            "patches_replace": {"attn2": self._replace},
            "optimized_attention_override": _sdpa,
            LAYERS_KEY: list(layers),
        } | ({} if probe is None else {PROBE_KEY: probe})
        extra = {"y": text["y"].to(self._dtype)} if "y" in text else {}
        return self._run(
            noisy.to(self._dtype),
            timesteps.float(),
            context=text["context"].to(self._dtype),
            transformer_options=options,
            **extra,
        )

    def attention_ratio(
        self, noisy: Tensor, timesteps: Tensor, text: Text, layers: Sequence[Aggregated]
    ) -> Tensor:
        probe: dict[int, Tensor] = {}
        self.denoise(noisy, timesteps, text, layers, probe)
        return torch.stack([probe[i].float() for i in range(self._count)])


@contextmanager
def training_backbone(
    model: comfy.model_patcher.ModelPatcher,
    clip: Any,
    clip_vision: Any,
    config: TrainingConfig,
    size: int,
    faces: FaceAnalyser | None = None,
) -> Iterator[Backbone]:
    """A backbone on a private copy of the model's UNet, which is given back at the end.

    To be used under `torch.inference_mode(False)`. `size` is the pictures' side in pixels, for
    SDXL's micro-conditioning.

    Raises:
        ValueError: a model that cannot be trained for.
    """
    prediction = check_model(model)
    device = comfy.model_management.get_torch_device()
    null = {name: x.to(device) for name, x in null_features(clip_vision, faces).items()}
    null = copies_for_autograd(null)
    unet = private_unet(model, device, _DTYPES[config.precision])
    unload_models()
    sites = cross_attention_sites(unet)
    if config.gradient_checkpointing:
        checkpoint_transformers(unet)
    denoiser = _Denoiser(unet, sites, config.compile)
    sigmas = model.get_model_object("model_sampling").sigmas
    with _in_training():
        yield Backbone(
            denoise=denoiser.denoise,
            encode_text=text_encoder(model, clip, device, size),
            text_weights=lambda: text_weights(unet, sites),
            attention_ratio=denoiser.attention_ratio,
            alphas_cumprod=(1 / (1 + sigmas.detach().clone().double() ** 2)).float().to(device),
            prediction=prediction,
            null_features=null,
            device=device,
        )


@contextmanager
def _in_training() -> Iterator[None]:
    """ComfyUI is told, where it asks; at the end the device is its own again."""
    before = getattr(comfy.model_management, "in_training", None)
    try:
        if before is not None:
            comfy.model_management.in_training = True
        yield
    finally:
        if before is not None:
            comfy.model_management.in_training = before
        comfy.model_management.soft_empty_cache()


def _sdpa(_: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, mask=None, **kwargs) -> Tensor:
    """PyTorch's own attention, which has a backward pass on every device."""
    plain = mask is None and not kwargs.get("skip_reshape")
    if plain and q.device.type == "cpu" and q.shape[1] * k.shape[1] <= _SMALL:
        return attend_by_products(q, k, v, heads)
    return attention_pytorch(q, k, v, heads, mask, **kwargs)
