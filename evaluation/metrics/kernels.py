"""Features in, kernel distances out: KID and CMMD, unbiased even for few pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .rows import Rows, blocks, check_pair, unit_rows

SUBSET_SIZE = 1000
_BLOCK = 2048  # rows and columns of the kernel matrix that exist at once
_CMMD_SIGMA = 10.0
_CMMD_SCALE = 1000.0

Kernel = Callable[[Tensor, Tensor], Tensor]


class KernelDistance(NamedTuple):
    """Kernel distance over random subsets.

    Attributes:
        mean: over the subsets; may be slightly negative, as an unbiased estimate of zero must.
        std: over the subsets (ddof 0). It is not an interval: it is 0 if each subset is the set.
        subset_size: pictures per subset.
    """

    mean: float
    std: float
    subset_size: int


def kid(
    generated: Rows,
    real: Rows,
    subset_size: int | None = None,
    subsets: int = 100,
    seed: int = 0,
) -> KernelDistance:
    """Kernel Inception distance (arXiv 1801.01401), not multiplied by 1,000.

    Only the rows of one subset are in memory where the features lie on disk.

    For the same seed and order of pictures the subsets are those of torch-fidelity.

    Args:
        generated: [N, D] Inception features.
        real: [M, D].
        subset_size: None for 1,000, or all pictures of the smaller set if they are fewer.
        subsets: number of draws without replacement.
        seed: of the draws.

    Raises:
        ValueError: a subset larger than a set or smaller than 2, or unusable features.
    """
    generated, real = check_pair(generated, real)
    available = min(len(generated), len(real))
    size = min(SUBSET_SIZE, available) if subset_size is None else subset_size
    if not 2 <= size <= available or subsets < 1:
        raise ValueError(
            f"KID got {subsets} subsets of {size} from {len(generated)} generated and {len(real)} "
            f"real pictures; expected at least 1 subset of 2 to {available}. Lower the subset size."
        )
    random = np.random.RandomState(seed)  # torch-fidelity's generator; its stream never changes
    values = []
    for _ in range(subsets):
        x, y = (
            features[torch.from_numpy(random.choice(len(features), size, replace=False))]
            for features in (generated, real)
        )
        values.append(_mmd2(x, y, _polynomial, biased=False))
    return KernelDistance(float(np.mean(values)), float(np.std(values)), size)


def cmmd(generated: Rows, real: Rows, biased: bool = False) -> float:
    """CLIP maximum mean discrepancy (arXiv 2401.09603), times 1,000.

    Args:
        generated: [N, D] CLIP image embeddings (of L/14 at 336 pixels in the paper), of any length.
        real: [M, D].
        biased: as the paper's released code, whose bias is 10 (1 - mean cosine) (1/N + 1/M).

    Raises:
        ValueError: unusable features.
    """
    generated, real = check_pair(generated, real)
    x, y = _Units(generated, "generated"), _Units(real, "real")
    return _CMMD_SCALE * _mmd2(x, y, _gaussian_of_units, biased)


class _Units:
    """Rows scaled to length 1 as they are read; see `Rows`."""

    dtype = torch.float64

    def __init__(self, rows: Rows, what: str):
        self._rows, self._what, self.shape = rows, what, rows.shape

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
        first = rows.start or 0 if isinstance(rows, slice) else 0
        return unit_rows(self._rows[rows], self._what, first)


def _polynomial(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1).pow_(3)


def _gaussian_of_units(x: Tensor, y: Tensor) -> Tensor:
    # |x - y|^2 = 2 - 2 x.y
    return ((x @ y.T - 1) / _CMMD_SIGMA**2).exp_()


def _mmd2(x: Rows, y: Rows, kernel: Kernel, biased: bool) -> float:
    within = _mean_within(x, kernel, biased) + _mean_within(y, kernel, biased)
    between = sum(
        kernel(a, b).sum().item() for a in blocks(x, _BLOCK) for b in blocks(y, _BLOCK)
    ) / (len(x) * len(y))
    return within - 2 * between


def _mean_within(x: Rows, kernel: Kernel, biased: bool) -> float:
    """Mean of the kernel over pairs of a set; unbiased: without a picture's pair with itself."""
    total = diagonal = 0.0
    for i, a in enumerate(blocks(x, _BLOCK)):
        for b in blocks(x, _BLOCK, (i + 1) * _BLOCK):
            total += 2 * kernel(a, b).sum().item()  # symmetric: the other half is the same
        own = kernel(a, a)
        total += own.sum().item()
        diagonal += own.trace().item()
    n = len(x)
    return total / n**2 if biased else (total - diagonal) / (n * (n - 1))
