"""Features in, precision (are the pictures plausible?) and recall (are all kinds there?) out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .rows import Rows, blocks, check_pair

_ROWS, _COLUMNS = 2048, 2048  # of the distances that exist at once


class PrecisionRecall(NamedTuple):
    """Improved precision and recall.

    Attributes:
        precision: share of generated pictures that lie within the real pictures' manifold.
        recall: share of real pictures that lie within the generated pictures' manifold.
    """

    precision: float
    recall: float


def precision_recall(generated: Rows, real: Rows, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall (arXiv 1904.06991).

    A set's manifold is the union of balls around its pictures, each reaching to the picture's
    k-th nearest neighbour.

    Args:
        generated: [N, D].
        real: [M, D].
        k: which neighbour; below N and M.

    Raises:
        ValueError: k out of range, or unusable features.
    """
    generated, real = check_pair(generated, real)
    smaller = min(len(generated), len(real))
    if not 1 <= k < smaller:
        raise ValueError(
            f"Precision and recall got k = {k} for {len(generated)} generated and {len(real)} real "
            f"pictures; expected 1 to {smaller - 1}. Lower k, or add pictures."
        )
    return PrecisionRecall(
        _share_within(generated, real, _radii(real, k)),
        _share_within(real, generated, _radii(generated, k)),
    )


def _radii(features: Rows, k: int) -> Tensor:
    """Squared distance of each picture to its k-th neighbour, [N]; the first is itself."""
    radii = []
    for rows in blocks(features, _ROWS):
        nearest = rows.new_empty(len(rows), 0)
        for part in _squared_distances(rows, features):
            candidates = torch.cat([nearest, part], dim=1)
            kept = min(k + 1, candidates.shape[1])
            nearest = candidates.topk(kept, largest=False).values
        radii.append(nearest.sort(dim=1).values[:, k])
    return torch.cat(radii)


def _share_within(features: Rows, centres: Rows, radii: Tensor) -> float:
    within = 0
    for rows in blocks(features, _ROWS):
        inside = torch.zeros(len(rows), dtype=torch.bool)
        parts = _squared_distances(rows, centres)
        for part, radius in zip(parts, radii.split(_COLUMNS), strict=True):
            inside |= (part <= radius).any(dim=1)
        within += int(inside.sum())
    return within / len(features)


def _squared_distances(rows: Tensor, features: Rows) -> Iterator[Tensor]:
    """[B, D] float64 and [N, D] -> [B, columns] for some columns after the other."""
    length = rows.square().sum(dim=1, keepdim=True)
    for columns in blocks(features, _COLUMNS):
        yield (length + columns.square().sum(dim=1) - 2 * rows @ columns.T).clamp_min_(0)
