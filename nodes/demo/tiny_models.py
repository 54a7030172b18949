"""Small models of ComfyUI's own classes, to try and test the pack without downloads."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import comfy.clip_vision
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from torch import nn

from ...models.adapter import MultiIPAdapter, MultiIPAdapterConfig
from ...models.projection import ProjectionConfig
from ..steering.key_values import LoadedAdapter
from ..unet.sites import cross_attention_sites

_SD1_LAYOUT = {
    "model_channels": 32,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": 64,
}
_VISION = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "hidden_act": "quick_gelu",
    "model_type": "clip_vision_model",
    "num_channels": 3,
    "patch_size": 14,
    "image_size": 56,
    "projection_dim": 48,
}
_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
}
_VAE = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 64,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}
# Layouts of the models that demo/build trains.
WORLD_SIZE = 128  # pixels
_WORLD_UNET = _SD1_LAYOUT | {
    "model_channels": 96,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "context_dim": 128,
}
_WORLD_VISION = _VISION | {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "patch_size": 16,
    "image_size": WORLD_SIZE,
    "projection_dim": 256,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
}
_WORLD_TEXT = _TEXT | {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4}
_FOLD = 4
_WORLD_VAE = _VAE | {
    "z_channels": 32,  # 24 numbers of a picture to one; with 16, freckles and noses are lost
    "in_channels": 3 * _FOLD**2,
    "out_ch": 3 * _FOLD**2,
    "ch": 64,  # with 32, GroupNorm would take the mean of every channel away, and colours with it
    "ch_mult": [1, 2, 2],
}
_BLUR = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16


@dataclass(frozen=True)
class DemoConfig:
    """Sizes of the demo models; the UNet has the layout of SD1.x with fewer channels."""

    unet: dict = field(default_factory=lambda: dict(_SD1_LAYOUT))
    vision: dict = field(default_factory=lambda: dict(_VISION))
    text: dict = field(default_factory=lambda: dict(_TEXT))
    vae: dict = field(default_factory=lambda: dict(_VAE))
    heads: dict = field(default_factory=lambda: {"num_heads": 4, "num_head_channels": -1})
    fold: int = 1  # the VAE sees blocks of fold x fold pixels as channels

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return self.vae["z_channels"]

    @property
    def downscale(self) -> int:
        """Pixels to a latent's side."""
        return self.fold * 2 ** (len(self.vae["ch_mult"]) - 1)


WORLD = DemoConfig(
    unet=_WORLD_UNET,
    vision=_WORLD_VISION,
    text=_WORLD_TEXT,
    vae=_WORLD_VAE,
    heads={"num_heads": -1, "num_head_channels": 48},
    fold=_FOLD,
)


class FoldedAutoencoder(AutoencoderKL):
    """SD1.x's autoencoder behind a pixel unshuffle: 128 px at the price of 32 px."""

    def __init__(self, fold: int, **params):
        super().__init__(**params)
        self.fold, self.unfold = nn.PixelUnshuffle(fold), nn.PixelShuffle(fold)

    def encode(self, x: torch.Tensor, return_reg_log: bool = False):
        """Pixels [B, 3, h, w] to latents [B, channels, h / downscale, w / downscale]."""
        return super().encode(self.fold(x), return_reg_log)

    def decode(self, z: torch.Tensor, **kwargs) -> torch.Tensor:
        """The other way round."""
        return self.unfold(super().decode(z, **kwargs))


def build_unet(
    config: DemoConfig,
    seed: int,
    base: type[comfy.supported_models_base.BASE] = comfy.supported_models.SD15,
    dtype: torch.dtype = torch.float32,
) -> comfy.model_patcher.ModelPatcher:
    """A UNet with random weights, in the wrapping that ComfyUI's own loaders give it.

    It predicts v, because then any output of unit variance makes latents of unit variance.
    """
    changes = {
        "unet_extra_config": dict(config.heads),
        "model_type": lambda *_: comfy.model_base.ModelType.V_PREDICTION,
        "inpaint_model": lambda *_: False,  # SD1.x's classes take more than 4 channels for that
    }
    if config.fold > 1:
        shape = {"latent_channels": config.channels, "spacial_downscale_ratio": config.downscale}
        changes["latent_format"] = type("Latents", (comfy.latent_formats.LatentFormat,), shape)
    family = type(f"Demo{base.__name__}", (base,), changes)
    sizes = {
        "image_size": 32,
        "in_channels": config.channels,
        "out_channels": config.channels,
        "use_spatial_transformer": True,
        "legacy": False,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
    }
    model_config = family(sizes | config.unet)
    model_config.set_inference_dtype(dtype, None)
    model = model_config.get_model({}, device=torch.device("cpu"))
    randomise(model.diffusion_model, seed)
    return comfy.model_patcher.CoreModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def build_clip(config: DemoConfig, seed: int) -> comfy.sd.CLIP:
    """A text encoder with SD1.x's tokenizer and random weights."""
    target = comfy.supported_models_base.ClipTarget(
        comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel
    )
    full = {
        "hidden_act": "quick_gelu",
        "max_position_embeddings": 77,
        "vocab_size": 49408,
        "eos_token_id": 49407,
        "projection_dim": config.text["hidden_size"],
    }
    clip = comfy.sd.CLIP(target, model_options={"clip_l_model_config": full | config.text})
    randomise(clip.cond_stage_model, seed)
    return clip


def build_vae(config: DemoConfig, seed: int) -> comfy.sd.VAE:
    """An SD1.x autoencoder with random weights."""
    params = {"ddconfig": config.vae, "embed_dim": config.channels}
    # With weights, since ComfyUI lists in the log what is missing.
    vae = comfy.sd.VAE(sd=AutoencoderKL(**params).state_dict(), config={"params": params})
    if config.fold > 1:
        _replace_autoencoder(vae, FoldedAutoencoder(config.fold, **params).eval())
        vae.downscale_ratio = vae.upscale_ratio = config.downscale
        vae.latent_channels = config.channels
    randomise(vae.first_stage_model, seed)
    return vae


def _replace_autoencoder(vae: comfy.sd.VAE, model: nn.Module) -> None:
    """As comfy.sd.VAE sets up its own, whose class cannot be chosen."""
    model.to(vae.vae_dtype)
    comfy.model_management.archive_model_dtypes(model)
    devices = {"load_device": vae.device, "offload_device": vae.patcher.offload_device}
    vae.first_stage_model, vae.size = model, None
    vae.patcher = type(vae.patcher)(model, **devices)
    vae.model_size()


def build_clip_vision(config: DemoConfig, seed: int) -> comfy.clip_vision.ClipVisionModel:
    """An image encoder with random weights."""
    with tempfile.TemporaryDirectory() as folder:  # ComfyUI 0.18 takes a file only
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config.vision), encoding="utf-8")
        vision = comfy.clip_vision.ClipVisionModel(str(path))
    randomise(vision.model, seed)
    return vision


def build_adapter(
    config: DemoConfig, unet: comfy.model_patcher.ModelPatcher, seed: int
) -> LoadedAdapter:
    """An adapter with random weights for this UNet and the demo's image encoder."""
    sites = cross_attention_sites(unet.model.diffusion_model)
    width = config.vision["projection_dim"]
    projection = ProjectionConfig("linear", 4, sites[0].context_dim, input_dim=width)
    adapter = MultiIPAdapter(
        MultiIPAdapterConfig(projection, tuple(site.inner_dim for site in sites))
    )
    randomise(adapter, seed)
    return LoadedAdapter(adapter.eval().requires_grad_(False), "demo")


def randomise(module: nn.Module, seed: int) -> None:
    """Fill every parameter: matrices with variance 1 / fan-in, norms with 1, biases with 0.

    3x3 convolutions mix channels at random but blur in space: random kernels would draw nothing
    but noise, in which no difference can be seen. ComfyUI's layers are left uninitialised, since
    they expect a file. The global generator is not touched.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.shape[2:] == _BLUR.shape:
                mix = torch.randn(*parameter.shape[:2], 1, 1, generator=generator)
                parameter.copy_(mix * _BLUR / parameter.shape[1] ** 0.5)
            elif parameter.ndim > 1:
                fan_in = parameter[0].numel()
                noise = torch.randn(parameter.shape, generator=generator) / fan_in**0.5
                parameter.copy_(noise)
            elif parameter.ndim == 1:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
