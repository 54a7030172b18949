"""Lets autograd through ComfyUI's models, which are written for inference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from ...models.attention import attend_by_products


def small_attention(core, q: Tensor, k: Tensor, v: Tensor, heads: int, mask=None, **_) -> Tensor:
    """In the form of ComfyUI's `optimized_attention_override`; q [B, L, C]."""
    if q.device.type != "cpu":
        return core(q, k, v, heads, mask)
    return attend_by_products(q, k, v, heads, mask)


@contextmanager
def clip_layers(model: nn.Module) -> Iterator[None]:
    """Within: CLIP layers add their residuals to a new tensor, not in place."""
    layers = [layer for layer in model.modules() if hasattr(layer, "layer_norm2")]

    def forward(layer: nn.Module):
        def out_of_place(x, mask=None, optimized_attention=None):
            def attention(*inputs):
                return small_attention(optimized_attention, *inputs)

            x = x + layer.self_attn(layer.layer_norm1(x), mask, attention)
            return x + layer.mlp(layer.layer_norm2(x))

        return out_of_place

    for layer in layers:
        layer.forward = forward(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
