"""ComfyUI's attention, as every cross-attention layer of a UNet is to call it."""

from __future__ import annotations

from comfy.ldm.modules import attention as comfy_attention
from torch import Tensor


def core_attention(q, k, v, extra_options: dict, mask: Tensor | None = None) -> Tensor:
    """ComfyUI's attention, with the precision and the overrides that the model asks for."""
    return comfy_attention.optimized_attention(
        q,
        k,
        v,
        extra_options["n_heads"],
        mask=mask,
        attn_precision=extra_options.get("attn_precision"),
        transformer_options=extra_options,
    )
