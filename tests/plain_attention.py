"""PyTorch's own attention, as the plain `Attend` that tests compute with."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from multi_ipadapter.models.attention import Attend


def sdpa(heads: int) -> Attend:
    """PyTorch's attention with `heads` heads, as an `Attend`."""

    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # [B, L, H d] -> [B, H, L, d]

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        mask = None if bias is None else bias.unsqueeze(1)
        out = F.scaled_dot_product_attention(split(q), split(k), split(v), attn_mask=mask)
        return out.transpose(1, 2).flatten(2)

    return attend
