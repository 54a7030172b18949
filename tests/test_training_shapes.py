"""Adapters trained with default settings load in other programs; diffusers stands for them."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from multi_ipadapter.models.checkpoint import save_adapter
from multi_ipadapter.models.projection import HIDDEN, POOLED
from multi_ipadapter.training.initial import initial_adapter, leaves_public_shapes

from .families import SD15_DIMS, SDXL_DIMS, layers, linear, plus
from .oracle import difference
from .training_node import train
from .training_world import settings

CLIP_H = {POOLED: 1024, HIDDEN: 1280}
CONTEXTS = {"sd15": 768, "sd2": 1024, "sdxl": 2048}
PUBLIC = {
    ("linear", "sd15"): linear(768, 1024),
    ("linear", "sd2"): linear(1024, 1024),
    ("linear", "sdxl"): linear(2048, 1024),
    ("resampler", "sd15"): plus(768, 1280, 768, 12),
    ("resampler", "sd2"): plus(1024, 1280, 1024, 16),
    ("resampler", "sdxl"): plus(2048, 1280, 1280, 20),
}
SIZES = {
    "sd15": {"block_out_channels": (32, 64, 128, 128)},
    "sdxl": {
        "block_out_channels": (32, 64, 128),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
    },
}


def fresh(context: int, dims, **changes):
    """As training starts, with the default number of tokens and width."""
    weights = [(torch.randn(dim, context) / context**0.5,) * 2 for dim in dims]
    changes = {"num_tokens": 0} | changes
    return initial_adapter(settings(**changes), weights, CLIP_H).requires_grad_(False).eval()


def load_into_diffusers(path, family: str, context: int) -> UNet2DConditionModel:
    """A small UNet of the family's layout with the file's weights, by diffusers' own loader."""
    unet = UNet2DConditionModel(
        sample_size=16, cross_attention_dim=context, attention_head_dim=4, **SIZES[family]
    )
    nested = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in load_file(path).items():
        group, _, name = key.partition(".")
        if group in nested:
            nested[group][name] = tensor
    unet._load_ip_adapter_weights([nested], low_cpu_mem_usage=False)
    return unet.eval()


@pytest.mark.parametrize(("kind", "family"), PUBLIC)
def test_default_sizes_are_those_of_the_public_files(kind, family):
    context = CONTEXTS[family]
    dims = (SDXL_DIMS if family == "sdxl" else SD15_DIMS)[:2]
    with torch.device("meta"):
        adapter = fresh(context, dims, projection=kind)
    found = {name: tuple(x.shape) for name, x in adapter.image_proj.state_dict().items()}
    assert found == PUBLIC[kind, family]
    keys = {f"ip_adapter.{name}": shape for name, shape in layers(dims, context).items()}
    assert {
        k: tuple(v.shape) for k, v in adapter.ip_adapter.state_dict(prefix="ip_adapter.").items()
    } == keys
    assert leaves_public_shapes(adapter.config) == []


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"num_tokens": 16}, ["num_tokens = 16 (public files: 4)"]),
        ({"slots": 2, "max_references": 2}, ["slots = 2"]),
        ({"projection": "resampler", "num_tokens": 4}, ["num_tokens = 4 (public files: 16)"]),
        (
            {"projection": "resampler", "resampler_dim": 1024, "resampler_depth": 2},
            [
                "hidden_dim = 1024 (public files: 768)",
                "depth = 2 (public files: 4)",
                "heads = 16 (public files: 12)",
            ],
        ),
    ],
)
def test_what_leaves_the_public_shapes_is_named(changes, reasons):
    with torch.device("meta"):
        assert leaves_public_shapes(fresh(768, (32,), **changes).config) == reasons


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("kind", ["linear", "resampler"])
def test_diffusers_loads_the_file(tmp_path, kind, family):
    """Real widths of text and features, narrow layers."""
    context, count = CONTEXTS[family], {"sd15": 16, "sdxl": 70}[family]
    block = {"sd15": (32, 32, 64, 64, 128, 128, *[128] * 3, *[64] * 3, *[32] * 3, 128)}
    block["sdxl"] = (*[64] * 4, *[128] * 50, *[64] * 6, *[128] * 10)
    adapter = fresh(context, block[family], projection=kind)
    path = tmp_path / "trained.safetensors"
    save_adapter(adapter, path)
    unet = load_into_diffusers(path, family, context)
    generator = torch.Generator().manual_seed(1)
    shape = (1, 2, 1024) if kind == "linear" else (1, 2, 5, 1280)
    features = torch.randn(shape, generator=generator)
    (found,) = unet.encoder_hid_proj([features])
    wanted = adapter.project({adapter.config.projection.inputs[0]: features})
    assert difference(found, wanted) < 1e-4
    processors = [p for name, p in unet.attn_processors.items() if "attn2" in name]
    assert len(processors) == count
    # diffusers walks down, up, mid, as the files do
    for layer, processor in zip(adapter.ip_adapter.values(), processors, strict=True):
        assert torch.equal(layer.pairs()[0][0].weight, processor.to_k_ip[0].weight)
        assert torch.equal(layer.pairs()[0][1].weight, processor.to_v_ip[0].weight)


def test_diffusers_loads_what_the_node_has_trained(base, models, dataset):
    """All at its defaults, but for the steps."""
    text = "warmup = 1\nvalidate_every = 0"
    adapter = train(models, dataset, settings=text, steps=2).args[0].adapter
    path = base / "output/training/run/adapter.safetensors"
    unet = load_into_diffusers(path, "sd15", 64)
    features = torch.randn(1, 2, 5, 64)
    (found,) = unet.encoder_hid_proj([features])
    assert found.shape == (1, 2, 16, 64)
    wanted = adapter.project({HIDDEN: features})
    assert difference(found, wanted) < 1e-4
