"""The trained demo models: weights that come with the pack, in ComfyUI's own classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import comfy.clip_vision
import comfy.model_patcher
import comfy.ops
import comfy.sd
import torch
from torch import Tensor, nn

from ..demo.world import WEIGHTS_FOLDER
from ..models.checkpoint import load_adapter
from ..models.files import read_tensors
from . import demo_models as models
from .key_values import LoadedAdapter

ADAPTER = "adapter.safetensors"
_TABLE = "text_model.embeddings.token_embedding.weight"
_TOKENS = "tokens"


def trained_unet() -> comfy.model_patcher.ModelPatcher:
    """The base UNet of the demo world, 8 x 8 latents of 32 channels."""
    patcher = models.build_unet(models.WORLD, 0)
    fill(patcher.model.diffusion_model, WEIGHTS_FOLDER / "unet.safetensors")
    return patcher


def trained_clip() -> comfy.sd.CLIP:
    """Its text encoder; words that no caption of the world has say nothing."""
    clip = models.build_clip(models.WORLD, 0)
    fill(clip.cond_stage_model.clip_l.transformer, WEIGHTS_FOLDER / "text.safetensors")
    return clip


def trained_vae() -> comfy.sd.VAE:
    """Its autoencoder."""
    vae = models.build_vae(models.WORLD, 0)
    fill(vae.first_stage_model, WEIGHTS_FOLDER / "vae.safetensors")
    return vae


def trained_clip_vision() -> comfy.clip_vision.ClipVisionModel:
    """Its image encoder."""
    vision = models.build_clip_vision(models.WORLD, 0)
    fill(vision.model, WEIGHTS_FOLDER / "vision.safetensors")
    return vision


def trained_adapter() -> LoadedAdapter:
    """The adapter that this pack's own trainer made of them."""
    adapter = load_adapter(WEIGHTS_FOLDER / ADAPTER, comfy.ops.manual_cast)
    return LoadedAdapter(adapter, "demo")


def fill(model: nn.Module, path: Path) -> None:
    """Load a bundled file into a model.

    Raises:
        FileNotFoundError: the pack came without its weights.
        ValueError: the file does not fit.
    """
    tensors, _about = read_tensors(path)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    tensors = unpacked(tensors, shapes)
    if {name: tuple(value.shape) for name, value in tensors.items()} != shapes:
        raise ValueError(
            f"{path.name} does not fit the demo's models. Restore the folder {path.parent.name} "
            "as the pack came with it."
        )
    model.load_state_dict(tensors)


def packed(model: nn.Module, used: Tensor | None = None) -> dict[str, Tensor]:
    """What a bundled file holds: half precision; of the word table only the rows `used`."""
    state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    if used is not None:
        state[_TABLE] = state[_TABLE][used].contiguous()
        state[_TOKENS] = used.to(torch.int32)
    return state


def unpacked(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """The other way round; the rows of other words are 0."""
    tensors = dict(tensors)
    if _TOKENS in tensors and _TABLE in shapes:
        table = torch.zeros(shapes[_TABLE])
        table[tensors.pop(_TOKENS).long()] = tensors[_TABLE].float()
        tensors[_TABLE] = table
    return tensors
