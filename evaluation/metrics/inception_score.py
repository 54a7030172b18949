"""Class logits of generated pictures in, Inception Score out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .rows import check_features


class InceptionScore(NamedTuple):
    """Inception Score over splits.

    Attributes:
        mean: over the splits; from 1 to the pictures per split, or to the number of classes.
        std: over the splits (ddof 0).
    """

    mean: float
    std: float


def inception_score(logits: Tensor, splits: int = 10, seed: int = 0) -> InceptionScore:
    """exp of the mean of KL(p(y|x) || p(y)), p(y) the marginal over a split (arXiv 1606.03498).

    For the same seed and order of pictures the splits are those of torch-fidelity.

    Args:
        logits: [N, classes], before the softmax.
        splits: number of parts that are scored on their own.
        seed: of the order in which pictures are dealt to the splits.

    Raises:
        ValueError: fewer pictures than splits or than 2, or logits that are not finite.
    """
    logits = check_features(logits, "generated")
    n = len(logits)
    if not 1 <= splits <= n:
        raise ValueError(
            f"The Inception Score got {splits} splits for {n} pictures; expected 1 to {n}. Lower "
            "the number of splits, or add pictures."
        )
    order = torch.from_numpy(np.random.RandomState(seed).permutation(n))
    edges = [i * n // splits for i in range(splits + 1)]
    scores = [
        _score(logits[order[start:end]].double())
        for start, end in zip(edges[:-1], edges[1:], strict=True)
    ]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


def _score(logits: Tensor) -> float:
    log_p = logits.log_softmax(dim=1)
    # In logarithms throughout: a class of probability 0 must give 0, not NaN.
    log_marginal = log_p.logsumexp(dim=0) - np.log(len(log_p))
    divergence = (log_p.exp() * (log_p - log_marginal)).sum(dim=1)
    return divergence.mean().exp().item()
