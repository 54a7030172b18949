"""UNets of diffusers, ComfyUI models with the same weights, and adapter files for both."""

from __future__ import annotations

from pathlib import Path

import comfy.utils
import torch
from diffusers import UNet2DConditionModel
from diffusers.utils import convert_unet_state_dict_to_peft
from safetensors.torch import load_file
from torch import Tensor

from multi_ipadapter.nodes.demo.tiny_models import DemoConfig, build_unet

from .builders import SDXL_LAYOUT, Sdxl

CONTEXT = 64
_SD1_SIZES = {"block_out_channels": (32, 64, 128, 128)}
_SDXL_SIZES = {
    "block_out_channels": (32, 64, 128),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
}


def sd15_pair() -> tuple[UNet2DConditionModel, object, int]:
    """SD1.5's layout: a UNet of diffusers, a MODEL with its weights, cross-attention layers."""
    unet = _unet(_SD1_SIZES)
    return unet, _model(unet, build_unet(DemoConfig(), seed=0)), 16


def sdxl_pair() -> tuple[UNet2DConditionModel, object, int]:
    """SDXL's layout."""
    unet = _unet(_SDXL_SIZES)
    layout = SDXL_LAYOUT | {"use_linear_in_transformer": True}
    return unet, _model(unet, build_unet(DemoConfig(unet=layout), seed=0, base=Sdxl)), 70


def _unet(sizes: dict) -> UNet2DConditionModel:
    torch.manual_seed(7)
    common = {"sample_size": 16, "cross_attention_dim": CONTEXT, "attention_head_dim": 4}
    return UNet2DConditionModel(**common, **sizes).eval().requires_grad_(False)


def _model(unet: UNet2DConditionModel, model):
    """ComfyUI's model with the weights of diffusers' one, by core's own table of names."""
    names = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    weights = {names[key]: tensor for key, tensor in unet.state_dict().items()}
    model.model.diffusion_model.load_state_dict(weights)  # strict: every weight has a place
    return model


def noise(generator: torch.Generator, *shape: int) -> Tensor:
    """Random numbers of a size that keeps activations near one."""
    return torch.randn(shape, generator=generator) / shape[-1] ** 0.5


def image_layers(unet: UNet2DConditionModel, generator: torch.Generator) -> dict[str, Tensor]:
    """`ip_adapter.*` of a file, in the order of diffusers' layers."""
    tensors = {}
    for number, name in enumerate(unet.attn_processors):
        if "attn2" in name:
            width = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
            for end in ("k", "v"):
                tensors[f"ip_adapter.{number}.to_{end}_ip.weight"] = 2 * noise(
                    generator, width, CONTEXT
                )
    return tensors


def lora_layers(
    unet: UNet2DConditionModel, generator: torch.Generator, rank: int = 4
) -> dict[str, Tensor]:
    """The LoRA of a FaceID file: four pairs for every attention."""
    tensors = {}
    for number, name in enumerate(unet.attn_processors):
        attention = unet.get_submodule(name.removesuffix(".processor"))
        ends = {"q": attention.to_q, "k": attention.to_k, "v": attention.to_v}
        for end, layer in (ends | {"out": attention.to_out[0]}).items():
            prefix = f"ip_adapter.{number}.to_{end}_lora"
            tensors[f"{prefix}.down.weight"] = noise(generator, rank, layer.in_features)
            tensors[f"{prefix}.up.weight"] = noise(generator, layer.out_features, rank) / 4
    return tensors


def nested(path: Path) -> dict[str, dict[str, Tensor]]:
    """A file as diffusers' loader wants it."""
    groups: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in load_file(path).items():
        group, _, name = key.partition(".")
        groups[group][name] = tensor
    return groups


def lora_changes(unet: UNet2DConditionModel, path: Path) -> dict[str, Tensor]:
    """up @ down for each weight of the UNet, by the names that diffusers gives it.

    Diffusers hands the pairs to PEFT, which is not needed to know what they do: the file holds no
    alphas, and then both take the scale 1.
    """
    (pairs,) = unet._load_ip_adapter_loras([nested(path)]).values()
    pairs = convert_unet_state_dict_to_peft(pairs)
    return {
        name.removeprefix("unet.").replace(".lora_A.", "."): pairs[name.replace("_A.", "_B.")]
        @ down
        for name, down in pairs.items()
        if ".lora_A." in name
    }
