"""Statistics or features in, Fréchet distance (FID) out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .rows import check_features, check_width
from .statistics import Gaussian, gaussian_of

FID_INFINITY_MINIMUM = 5000
_EXACT = 1e-12


@dataclass(frozen=True)
class Root:
    """A normal distribution whose covariance is factored; made once, and used for many distances.

    Attributes:
        mean: [D], float64.
        factor: [D, R] with covariance = factor factor^T.
        n: number of pictures, None if unknown.
    """

    mean: Tensor
    factor: Tensor
    n: int | None


def root_of(gaussian: Gaussian) -> Root:
    """Factor the covariance: Cholesky at full rank, else eigenvectors within rounding of the rank.

    Raises:
        ValueError: the covariance is not one, because it has a clearly negative eigenvalue.
    """
    full_rank = gaussian.n is None or gaussian.n > gaussian.dim
    if full_rank:
        factor, failed = torch.linalg.cholesky_ex(gaussian.covariance)
        if not failed:
            return Root(gaussian.mean, factor, gaussian.n)
    return Root(gaussian.mean, _eigen_factor(gaussian.covariance), gaussian.n)


def _eigen_factor(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    largest = values.abs().max().item()
    rounding = largest * len(values) * torch.finfo(torch.float64).eps
    # Files of public tools may hold float32, whose rounding makes small eigenvalues negative.
    if values[0] < -1e-5 * largest:
        raise ValueError(
            f"The covariance has the eigenvalue {values[0]:.3g} beside {largest:.3g}; expected "
            "none below zero. Compute the statistics again."
        )
    kept = values > rounding  # the root of a rounding error is far larger than the error
    return vectors[:, kept] * values[kept].sqrt()


def root_of_features(features: Tensor) -> Root:
    """Factor the covariance of features [N, D]; below full rank the features themselves are one.

    Raises:
        ValueError: fewer than 2 pictures, or features that are not finite.
    """
    features = check_features(features, "given")
    n, dim = features.shape
    if n > dim:
        return root_of(gaussian_of(features))
    features = features.double()
    mean = features.mean(dim=0)
    return Root(mean, (features - mean).T / (n - 1) ** 0.5, n)


def frechet_distance(p: Root | Gaussian, q: Root | Gaussian) -> float:
    """Fréchet distance of two normal distributions; FID if they are of Inception features.

    d^2 = |mu_p - mu_q|^2 + Tr(S_p + S_q - 2 (S_p S_q)^1/2) (arXiv 1706.08500). With S = F F^T the
    trace of the root is the sum of the singular values of F_p^T F_q: no square root is taken of
    a rounding error, and the matrix is as small as the ranks.

    Raises:
        ValueError: statistics of different widths.
    """
    p, q = (x if isinstance(x, Root) else root_of(x) for x in (p, q))
    check_width(len(p.mean), len(q.mean))
    shared = _nuclear_norm(p.factor.T @ q.factor)
    spread = p.factor.square().sum() + q.factor.square().sum()
    distance = (p.mean - q.mean).square().sum() + spread - 2 * shared
    return max(distance.item(), 0.0)  # equal sets may miss zero by a rounding error


def _nuclear_norm(matrix: Tensor) -> Tensor:
    """Sum of the singular values; as roots of the Gram matrix's eigenvalues if these are exact.

    That takes half the time of a singular value decomposition. An eigenvalue's error is about
    1e-16 of the largest; its root's is below 1e-10 of the largest root if all exceed 1e-12.
    """
    array = matrix.numpy() if len(matrix) <= matrix.shape[1] else matrix.T.numpy()
    values = torch.linalg.eigvalsh(torch.from_numpy(array @ array.T))  # NumPy computes half of it
    if len(values) and values[0] > _EXACT * values[-1]:
        return values.sqrt().sum()
    return torch.linalg.svdvals(matrix).sum()


def frechet_distance_from_features(generated: Tensor, real: Tensor) -> float:
    """Fréchet distance of two sets of features [N, D], [M, D].

    Raises:
        ValueError: fewer than 2 pictures, features that are not finite, or different widths.
    """
    return frechet_distance(root_of_features(generated), root_of_features(real))


def fid_infinity(
    generated: Tensor, reference: Root | Gaussian, points: int = 15, seed: int = 0
) -> float:
    """FID extrapolated to infinitely many generated pictures (Chong & Forsyth, arXiv 1911.07023).

    FID of N pictures is linear in 1/N. It is measured at `points` sizes, each on a new draw, from
    5,000 pictures (or half of them, if that is less) to all. The bias of the reference remains.

    Args:
        generated: [N, D], N >= 5,000.
        reference: of the real pictures.
        points: number of sizes.
        seed: of the draws.

    Raises:
        ValueError: too few pictures for the line to mean anything, or as `frechet_distance`.
    """
    generated = check_features(generated, "generated")
    n = len(generated)
    if n < FID_INFINITY_MINIMUM:
        raise ValueError(
            f"FID-infinity got {n} generated pictures; expected at least {FID_INFINITY_MINIMUM}, "
            "because FID is not linear in 1/n below. Generate more pictures, or use KID."
        )
    reference = reference if isinstance(reference, Root) else root_of(reference)
    random = np.random.default_rng(seed)
    sizes = np.linspace(min(FID_INFINITY_MINIMUM, n // 2), n, points).astype(int)
    distances = []
    for size in sizes:
        rows = torch.from_numpy(random.permutation(n)[:size])
        distances.append(frechet_distance(root_of_features(generated[rows]), reference))
    _, intercept = np.polyfit(1 / sizes, distances, deg=1)
    return float(intercept)
