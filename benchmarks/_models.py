"""Models of the real sizes with random weights: UNets, Plus adapters, encoded references."""

from __future__ import annotations

import comfy.ops
import comfy.supported_models
import torch
from comfy.model_patcher import CoreModelPatcher, ModelPatcher
from torch import Tensor

from ..models.adapter import MultiIPAdapter, MultiIPAdapterConfig
from ..models.checkpoint import build_adapter
from ..models.projection import HIDDEN, ProjectionConfig
from ..models.references import ReferenceEmbeds
from ..nodes.demo.tiny_models import DemoConfig, build_unet
from ..nodes.steering.key_values import LoadedAdapter
from ..nodes.unet.sites import cross_attention_sites

# ip-adapter-plus_sd15 and ip-adapter-plus_sdxl_vit-h: 16 tokens from the hidden states of ViT-H.
_PLUS = {
    768: ProjectionConfig("resampler", 16, 768, input_dim=1280, hidden_dim=768, heads=12),
    2048: ProjectionConfig("resampler", 16, 2048, input_dim=1280, hidden_dim=1280, heads=20),
}
_SEQUENCE = 257  # hidden states of ViT-H at 224 px

_SD15 = {
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": 768,
}
_SDXL = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "legacy": False,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "use_linear_in_transformer": True,
    "context_dim": 2048,
    "num_head_channels": 64,
}


def sd15_unet(dtype: torch.dtype) -> ModelPatcher:
    """The UNet of SD1.5, 859 M random weights."""
    return build_unet(
        DemoConfig(unet=_SD15, heads={"num_heads": 8, "num_head_channels": -1}), seed=0, dtype=dtype
    )


def sdxl_unet() -> ModelPatcher:
    """The UNet of SDXL without memory for its weights: Apply reads sizes only."""
    config = comfy.supported_models.SDXL(dict(_SDXL))
    config.set_inference_dtype(torch.float16, None)
    meta = torch.device("meta")
    return CoreModelPatcher(config.get_model({}, device=meta), torch.device("cpu"), meta)


def plus_config(model: ModelPatcher) -> MultiIPAdapterConfig:
    """The Plus adapter that fits the model, with a trained score for `learned`."""
    sites = cross_attention_sites(model.model.diffusion_model)
    return MultiIPAdapterConfig(
        _PLUS[sites[0].context_dim], tuple(s.inner_dim for s in sites), aggregator_heads=1
    )


def random_tensors(config: MultiIPAdapterConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    """A state dict for the adapter: matrices with variance 1 / fan-in, norms with 1."""
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in MultiIPAdapter(config).state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            tensors[name] = torch.full(shape, float(name.endswith("weight")), dtype=dtype)
        else:
            noise = torch.randn(shape, generator=generator) / shape[-1] ** 0.5
            tensors[name] = noise.to(dtype)
    return tensors


def plus_adapter(model: ModelPatcher, dtype: torch.dtype) -> LoadedAdapter:
    """A Plus adapter of the real size for the model."""
    config = plus_config(model)
    adapter = build_adapter(config, random_tensors(config, dtype), comfy.ops.manual_cast)
    return LoadedAdapter(adapter, "benchmark adapter")


def references(count: int, equal: bool = True) -> ReferenceEmbeds:
    """`count` encoded references with random features."""
    generator = torch.Generator().manual_seed(count)
    features = torch.randn(count, _SEQUENCE, 1280, generator=generator)
    null = torch.randn(1, _SEQUENCE, 1280, generator=generator)
    weights = torch.ones(count) if equal else torch.linspace(1.0, 2.0, count)
    return ReferenceEmbeds({HIDDEN: features}, {HIDDEN: null}, weights)
