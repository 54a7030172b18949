"""Fréchet distance against closed forms, its own low-rank path, and three public libraries."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance

from multi_ipadapter.evaluation.metrics.frechet import (
    fid_infinity,
    frechet_distance,
    frechet_distance_from_features,
    root_of,
    root_of_features,
)
from multi_ipadapter.evaluation.metrics.statistics import Gaussian, gaussian_of

from .builders import assert_says, refusal
from .features import random_features


def diagonal(dim, seed):
    random = torch.Generator().manual_seed(seed)
    mean, variance = torch.rand(2, dim, generator=random, dtype=torch.float64)
    return mean, variance * 3 + 1e-3


@pytest.mark.parametrize("n", [None, 10_000, 100], ids=["unknown", "full rank", "below rank"])
@pytest.mark.parametrize("dim", [1, 7, 256])
def test_diagonal_gaussians_against_the_closed_form(dim, n):
    (mp, vp), (mq, vq) = diagonal(dim, 0), diagonal(dim, 1)
    wanted = ((mp - mq) ** 2 + (vp.sqrt() - vq.sqrt()) ** 2).sum().item()
    found = frechet_distance(Gaussian(mp, vp.diag(), n), Gaussian(mq, vq.diag(), n))
    assert abs(found - wanted) <= 1e-10


def test_variances_over_many_orders_lose_nothing():
    """A root of an eigenvalue of the product would lose those below 1e-8 of the largest."""
    v = torch.logspace(2, -10, 60, dtype=torch.float64)
    zero = torch.zeros_like(v)
    p, q = Gaussian(zero, v.diag(), None), Gaussian(zero, 4 * v.diag(), None)
    assert abs(frechet_distance(p, q) - v.sum().item()) <= 1e-10


@pytest.mark.parametrize("n", [5, 40, 200])
def test_a_set_against_itself_is_zero(n):
    x = random_features(n, 64, mean=3) * 10
    assert frechet_distance_from_features(x, x) <= 1e-6
    assert frechet_distance(gaussian_of(x), gaussian_of(x)) <= 1e-6
    assert frechet_distance(root_of_features(x), gaussian_of(x)) <= 1e-6


@pytest.mark.parametrize(("n", "m"), [(30, 40), (30, 500), (500, 30), (64, 65), (2, 2)])
def test_the_low_rank_path_equals_the_rank_tolerant_form(n, m):
    x, y = random_features(n, 64), random_features(m, 64, seed=1, mean=0.3)
    low = frechet_distance_from_features(x, y)
    full = frechet_distance(gaussian_of(x), gaussian_of(y))
    assert abs(low - full) <= 1e-8
    # The eigenvectors' factor has a column less, as n pictures have rank n - 1.
    assert root_of_features(x).factor.shape[1] == min(n, 64)


@pytest.mark.slow
def test_the_low_rank_path_in_2048_values():
    x, y = random_features(60, 2048), random_features(80, 2048, seed=1, mean=0.3)
    unknown = [Gaussian(g.mean, g.covariance, None) for g in (gaussian_of(x), gaussian_of(y))]
    low = frechet_distance_from_features(x, y)
    assert abs(low - frechet_distance(*unknown)) <= 1e-8


def fidelity(x, y):
    a, b = fid_features_to_statistics(x), fid_features_to_statistics(y)
    return fid_statistics_to_metric(a, b, verbose=False)["frechet_inception_distance"]


def metrics(x, y):
    class Identity(torch.nn.Module):
        num_features = x.shape[1]

        def forward(self, features):
            return features

    fid = FrechetInceptionDistance(Identity(), normalize=False).set_dtype(torch.float64)
    fid.update(x, real=False)
    fid.update(y, real=True)
    return fid.compute().item()


def matrix_root(x, y):
    p, q = (np.cov(z.numpy(), rowvar=False) for z in (x, y))
    step = (x.mean(dim=0) - y.mean(dim=0)).square().sum().item()
    return step + np.trace(p + q - 2 * scipy.linalg.sqrtm(p @ q).real)


@pytest.mark.parametrize("library", [fidelity, metrics, matrix_root])
@pytest.mark.parametrize(("n", "dim"), [(2000, 64), (900, 300)])
def test_the_same_features_in_public_libraries(library, n, dim):
    x, y = random_features(n, dim), 1.2 * random_features(n + 100, dim, seed=1, mean=0.1)
    assert frechet_distance_from_features(x, y) == pytest.approx(library(x, y), rel=1e-8)


def test_the_distance_is_symmetric_and_grows_with_a_shift():
    x, y = random_features(200, 16), random_features(300, 16, seed=1)
    there, back = frechet_distance_from_features(x, y), frechet_distance_from_features(y, x)
    assert there == pytest.approx(back, rel=1e-12)
    assert frechet_distance_from_features(x + 2, x) == pytest.approx(4 * 16, rel=1e-12)


def test_the_reference_is_factored_once_and_used_again():
    reference = root_of(gaussian_of(random_features(100, 16)))
    for seed in (1, 2):
        x = random_features(50, 16, seed=seed)
        wanted = frechet_distance_from_features(x, random_features(100, 16))
        assert frechet_distance(gaussian_of(x), reference) == pytest.approx(wanted, rel=1e-12)


def test_values_that_never_change_count_by_their_mean():
    x, y = random_features(200, 8), random_features(200, 8, seed=1)
    extra = torch.ones(200, 1, dtype=torch.float64)
    wider = frechet_distance_from_features(torch.cat([x, extra], 1), torch.cat([y, 3 * extra], 1))
    assert wider == pytest.approx(frechet_distance_from_features(x, y) + 4, rel=1e-10)
    still = torch.ones(20, 8)
    assert frechet_distance_from_features(still, still + 1) == pytest.approx(8, rel=1e-12)


def test_features_and_statistics_that_do_not_fit_are_refused():
    x = random_features(20, 4)
    nan = x.clone()
    nan[3, 1] = torch.inf
    distance = frechet_distance_from_features
    assert_says(refusal(distance, nan, x), "1 of 20", "NaN or infinite", "[3]", "float32")
    assert_says(refusal(distance, x, x[:1]), "1 given", "at least 2", "Add")
    wide = gaussian_of(random_features(20, 5))
    message = refusal(frechet_distance, gaussian_of(x), wide)
    assert_says(message, "4 values", "5", "same network")
    broken = Gaussian(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]).double(), None)
    assert_says(refusal(root_of, broken), "-1", "below zero", "again")


def test_fid_infinity_removes_the_bias_of_the_generated_side():
    reference = gaussian_of(random_features(40_000, 32))
    x = random_features(6_000, 32, seed=1)
    plain = frechet_distance(gaussian_of(x), reference)
    found = fid_infinity(x, reference)
    assert plain > 0 and abs(found) < 0.35 * plain
    assert found == fid_infinity(x, root_of(reference))  # seeded
    assert found != fid_infinity(x, reference, seed=1)


def test_fid_infinity_refuses_few_pictures():
    x = random_features(4_999, 2)
    assert_says(refusal(fid_infinity, x, gaussian_of(x)), "4999", "5000", "KID")
