"""The text cross-attention layers of a ComfyUI UNet, in the order of the adapter files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import comfy.model_patcher
from comfy.ldm.modules.attention import SpatialTransformer, SpatialVideoTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

from ...models.adapter import MultiIPAdapterConfig, family_name


@dataclass(frozen=True)
class Site:
    """One cross-attention layer.

    `block` and `index` are the names by which ComfyUI looks a patch up; `transformer_index` counts
    the spatial transformers as the UNet runs them (input, middle, output).
    """

    block: tuple[str, int]
    index: int
    transformer_index: int
    inner_dim: int
    context_dim: int


def cross_attention_sites(unet: UNetModel) -> list[Site]:
    """All layers in the files' order: input (down), output (up), middle blocks."""
    inputs = list(_sites(unet.input_blocks, "input", 0))
    first_middle = _next_transformer(inputs, 0)
    middle = list(_sites([unet.middle_block or []], "middle", first_middle))
    outputs = list(_sites(unet.output_blocks, "output", _next_transformer(middle, first_middle)))
    return inputs + outputs + middle


def _sites(blocks, name: str, transformer_index: int) -> Iterator[Site]:
    for block_id, block in enumerate(blocks):
        for module in block:
            if not isinstance(module, SpatialTransformer):
                continue
            for index, transformer in enumerate(module.transformer_blocks):
                to_k = transformer.attn2.to_k
                yield Site(
                    (name, block_id), index, transformer_index, to_k.out_features, to_k.in_features
                )
            transformer_index += 1


def _next_transformer(sites: list[Site], start: int) -> int:
    return sites[-1].transformer_index + 1 if sites else start


def matching_sites(
    model: comfy.model_patcher.ModelPatcher, config: MultiIPAdapterConfig
) -> list[Site]:
    """The model's layers, after checking that the adapter was made for such a model.

    Raises:
        ValueError: the model is no Stable Diffusion UNet, or of another base family.
    """
    unet = model.get_model_object("diffusion_model")
    unet = getattr(unet, "_orig_mod", unet)  # compiled, in the place of the original
    if not isinstance(unet, UNetModel):
        raise ValueError(
            f"Got a {type(model.model).__name__} model; this adapter is for {config.base_model}. "
            "Load a checkpoint of that family."
        )
    if any(isinstance(module, SpatialVideoTransformer) for module in unet.modules()):
        raise ValueError(
            f"Got a video model; this adapter is for {config.base_model}. Load a checkpoint of "
            "that family."
        )
    sites = cross_attention_sites(unet)
    dims = tuple(site.inner_dim for site in sites)
    context_dim = sites[0].context_dim if sites else 0
    if dims != config.layer_dims or context_dim != config.projection.output_dim:
        found = family_name(len(sites), context_dim)
        hint = "" if found != config.base_model else f" The layers' widths differ: {dims}."
        raise ValueError(
            f"The adapter is for {config.base_model}; the model is {found}.{hint} Load a "
            "checkpoint and an adapter of the same family."
        )
    return sites
