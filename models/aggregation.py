"""Third step: keys and values of N references become one set per layer, G and U.

Neither depends on the queries nor on the timestep, so they are computed once per generation.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

Aggregation = Literal["concat", "mean", "learned"]
AGGREGATIONS: tuple[str, ...] = get_args(Aggregation)


class Aggregated(NamedTuple):
    """Keys G and values U [B, M, D], and the bias of their logits [B, M] (None: zero)."""

    keys: Tensor
    values: Tensor
    bias: Tensor | None = None


class TokenScore(nn.Module):
    """The trained vector s of `learned`, one per head group; zero at the start, where it is `mean`.

    Shape [heads, D / heads]; heads = 1 weighs whole tokens.
    """

    def __init__(self, dim: int, heads: int = 1):
        super().__init__()
        self.score = nn.Parameter(torch.zeros(heads, dim // heads))


def aggregate(
    method: str,
    keys: Tensor,
    values: Tensor,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    score: Tensor | None = None,
) -> Aggregated:
    """Aggregate K' and V' over the references.

    Args:
        method: "concat" keeps all tokens (M = N T); "mean" and "learned" keep M = T.
        keys, values: [B, N, T, D].
        weights: positive weight of each reference, [B or 1, N]; None: all equal.
        mask: True where a reference is present, [B or 1, N]; None: all are. At least one per row.
        score: s of "learned", [heads, D / heads]; None: zero.

    Raises:
        ValueError: an unknown method.
    """
    log_weights = _log_weights(keys, weights, mask)  # [B or 1, N] or None
    if method == "concat":
        return _concat(keys, values, log_weights)
    if method == "mean":
        share = _mean_share(keys, log_weights)  # [B or 1, N, 1, 1]
        return Aggregated((share * keys).sum(1), (share * values).sum(1))
    if method == "learned":
        return _learned(keys, values, log_weights, score)
    raise ValueError(f"Got aggregation '{method}'; expected one of {', '.join(AGGREGATIONS)}.")


def _log_weights(keys: Tensor, weights: Tensor | None, mask: Tensor | None) -> Tensor | None:
    if weights is None and mask is None:
        return None
    log_weights = keys.new_zeros(1, keys.shape[1], dtype=torch.float32)
    if weights is not None:
        log_weights = log_weights + weights.float().log()
    if mask is not None:
        log_weights = log_weights.masked_fill(~mask, float("-inf"))
    return log_weights


def _concat(keys: Tensor, values: Tensor, log_weights: Tensor | None) -> Aggregated:
    bias = None
    if log_weights is not None:
        bias = log_weights.repeat_interleave(keys.shape[2], dim=1)  # [B or 1, N T]
        bias = bias.expand(keys.shape[0], -1)
    return Aggregated(keys.flatten(1, 2), values.flatten(1, 2), bias)


def _mean_share(keys: Tensor, log_weights: Tensor | None) -> Tensor:
    if log_weights is None:
        return keys.new_full((1, 1, 1, 1), 1.0 / keys.shape[1])
    return log_weights.softmax(dim=1).to(keys.dtype)[:, :, None, None]


def _learned(
    keys: Tensor, values: Tensor, log_weights: Tensor | None, score: Tensor | None
) -> Aggregated:
    """a_i = softmax_i(s . K'_i,t / sqrt d + log w_i), per token t (and head group)."""
    if score is None:
        score = keys.new_zeros(1, keys.shape[-1])
    heads, dim = score.shape
    k = keys.unflatten(-1, (heads, dim))  # [B, N, T, H, d]
    v = values.unflatten(-1, (heads, dim))
    logits = (k.float() * score.to(keys.device).float()).sum(-1) / dim**0.5  # [B, N, T, H]
    if log_weights is not None:
        logits = logits + log_weights[:, :, None, None]
    share = logits.softmax(dim=1).to(keys.dtype).unsqueeze(-1)  # [B, N, T, H, 1]
    return Aggregated((share * k).sum(1).flatten(-2), (share * v).sum(1).flatten(-2))
