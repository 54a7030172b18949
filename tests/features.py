"""Features of pictures that do not exist: seeded, of any size, mean and spread."""

from __future__ import annotations

import torch
from torch import Tensor


def random_features(n: int, dim: int, seed: int = 0, mean: float = 0.0) -> Tensor:
    """[n, dim] float64 with correlated columns whose spreads differ by a factor of 30."""
    random = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    spread = torch.logspace(0, -1.5, dim, dtype=torch.float64)
    raw = torch.randn(n, dim, generator=random, dtype=torch.float64)
    return raw * spread @ mix / dim**0.5 + mean
