"""Second step: per cross-attention layer, tokens become keys K' and values V', and are attended to.

Z'' = softmax(Q K^T / sqrt d) V + lambda softmax(Q G^T / sqrt d) U (arXiv 2308.06721, equation 5,
with G and U aggregated over the references). One implementation serves training and sampling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

# (q [B, L, D], k [B, M, D], v [B, M, D], bias [B or 1, L, M] or None) -> [B, L, D]
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


class ImageKeyValue(nn.Module):
    """The projections W'_k, W'_v of one cross-attention layer.

    `slots` = 1: one pair serves all references. `slots` = n: reference i has pair i; pair 0 keeps
    the standard names, the others are `to_k_ip_slots.<i>` and `to_v_ip_slots.<i>`.
    """

    def __init__(self, context_dim: int, inner_dim: int, slots: int = 1, operations: Any = nn):
        super().__init__()
        self.slots = slots

        def linear() -> nn.Linear:
            return operations.Linear(context_dim, inner_dim, bias=False)

        self.to_k_ip = linear()
        self.to_v_ip = linear()
        if slots > 1:
            self.to_k_ip_slots = nn.ModuleDict({str(i): linear() for i in range(1, slots)})
            self.to_v_ip_slots = nn.ModuleDict({str(i): linear() for i in range(1, slots)})

    def pairs(self) -> list[tuple[nn.Linear, nn.Linear]]:
        """(W'_k, W'_v) of every slot."""
        first = [(self.to_k_ip, self.to_v_ip)]
        if self.slots == 1:
            return first
        further = zip(self.to_k_ip_slots.values(), self.to_v_ip_slots.values(), strict=True)
        return first + cast(list[tuple[nn.Linear, nn.Linear]], list(further))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens [B, N, T, C] -> K', V', each [B, N, T, D].

        Raises:
            ValueError: more references than slots, when there are several slots.
        """
        if self.slots == 1:
            return self.to_k_ip(tokens), self.to_v_ip(tokens)
        if tokens.shape[1] > self.slots:
            raise ValueError(
                f"Got {tokens.shape[1]} reference images, but this adapter has separate weights "
                f"for {self.slots}. Use at most {self.slots} references, or an adapter with one "
                "shared slot."
            )
        pairs = self.pairs()
        keys = [to_k(x) for (to_k, _), x in zip(pairs, tokens.unbind(1), strict=False)]
        values = [to_v(x) for (_, to_v), x in zip(pairs, tokens.unbind(1), strict=False)]
        return torch.stack(keys, dim=1), torch.stack(values, dim=1)


def attend_by_products(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None
) -> Tensor:
    """Attention as two matrix products, [B, L, D]: it keeps all weights, so only for small L x M.

    On a CPU its backward pass is several times faster there than the fused one's, which is made
    for long sequences. `mask` is added to the logits; it broadcasts to [B, heads, L, M].
    """

    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    logits = split(q * (q.shape[-1] // heads) ** -0.5) @ split(k).transpose(-1, -2)
    weights = (logits if mask is None else logits + mask).softmax(dim=-1)
    return (weights.to(v.dtype) @ split(v)).transpose(1, 2).flatten(2)


def add_image_attention(
    text: Tensor,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: Tensor | float,
    attend: Attend,
    bias: Tensor | None = None,
) -> Tensor:
    """The image term of the equation above, added to the text attention's output.

    Args:
        text: softmax(Q K^T / sqrt d) V, [B, L, D].
        q: queries [B, L, D].
        keys, values: G and U [B, M, D].
        scale: lambda; a number or anything that broadcasts to [B, L, D] (a mask, say).
        attend: the attention function, so that ComfyUI's own serves in sampling.
        bias: added to the logits, [B or 1, M]: log weights and padding of the references.
    """
    if bias is not None:
        bias = bias.to(q.dtype).unsqueeze(1).expand(-1, q.shape[1], -1)  # [B or 1, L, M]
    return text + scale * attend(q, keys, values, bias)
