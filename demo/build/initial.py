"""Weights to start training from; ComfyUI's layers come uninitialised, since they expect a file."""

from __future__ import annotations

import torch
from torch import nn

_EMBEDDING_STD = 0.02


@torch.no_grad()
def initialise(model: nn.Module, seed: int, zero: tuple[str, ...] = ()) -> None:
    """Matrices with variance 1 / fan-in, embeddings with 0.02, norms with 1, biases with 0.

    Parameters whose names end in one of `zero` start at 0, as the last layer of a residual branch
    does in SD1.x.
    """
    random = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith(zero) if zero else False:
            parameter.zero_()
        elif "embedding" in name:
            parameter.copy_(torch.randn(parameter.shape, generator=random) * _EMBEDDING_STD)
        elif parameter.ndim > 1:
            spread = parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=random) * spread)
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
