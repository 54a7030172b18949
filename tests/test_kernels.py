"""KID and CMMD against formulas written out and public libraries."""

from __future__ import annotations

import math

import pytest
import torch
from torch_fidelity.metric_kid import kernel_mmd, kid_features_to_metric
from torchmetrics.image.kid import KernelInceptionDistance

from multi_ipadapter.evaluation.metrics import kernels
from multi_ipadapter.evaluation.metrics.kernels import cmmd, kid

from .builders import assert_says, refusal
from .features import random_features


def sets(n=120, m=150, dim=16, mean=0.2):
    return random_features(n, dim), random_features(m, dim, seed=1, mean=mean)


def written_out(x, y, kernel, biased):
    def mean(a, b, same):
        pairs = [
            kernel(p, q) for i, p in enumerate(a) for j, q in enumerate(b) if not same or i != j
        ]
        return sum(pairs) / len(pairs)

    own = not biased
    return mean(x, x, own) + mean(y, y, own) - 2 * mean(x, y, False)


def polynomial(a, b):
    return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3


def radial(a, b):
    a, b = ([v / math.hypot(*row) for v in row] for row in (a, b))
    return math.exp(-sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) / (2 * 10**2))


def kid_of_all(x, y):
    """KID of one subset: all pictures, where both sets have as many."""
    return kid(x, y, subsets=1).mean


def test_kid_is_the_mmd_of_its_kernel():
    x, y = sets(7, 7, 4)
    wanted = written_out(x.tolist(), y.tolist(), polynomial, biased=False)
    assert kid_of_all(x, y) == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("biased", [False, True])
def test_cmmd_is_its_definition(biased):
    x, y = sets(7, 11, 4)
    wanted = 1000 * written_out(x.tolist(), y.tolist(), radial, biased)
    assert cmmd(x, y, biased) == pytest.approx(wanted, abs=1e-9)


def test_the_length_of_embeddings_does_not_change_cmmd():
    x, y = sets()
    assert cmmd(3 * x, 0.1 * y) == pytest.approx(cmmd(x, y), abs=1e-9)


def test_cmmd_is_unbiased_by_default():
    """CMMD of two sets of one distribution is zero on average; the paper's has a bias.

    That is 1000 (1 - k) (1/n + 1/m), with k = 0.99 between embeddings at right angles.
    """
    unbiased, biased = [], []
    for seed in range(40):
        x, y = random_features(10, 32, seed=2 * seed), random_features(10, 32, seed=2 * seed + 1)
        unbiased.append(cmmd(x, y))
        biased.append(cmmd(x, y, biased=True))
    unbiased, biased = torch.tensor(unbiased), torch.tensor(biased)
    assert abs(unbiased.mean()) < 4 * unbiased.std() / 40**0.5
    assert biased.mean().item() == pytest.approx(10 * (1 / 10 + 1 / 10), rel=0.15)


def test_large_sets_are_computed_in_blocks(monkeypatch):
    x, y = sets()
    whole = kid_of_all(x, y), cmmd(x, y), cmmd(x, y, biased=True)
    monkeypatch.setattr(kernels, "_BLOCK", 37)
    seen = []
    monkeypatch.setattr(kernels, "_polynomial", record(kernels._polynomial, seen))
    parts = kid_of_all(x, y), cmmd(x, y), cmmd(x, y, biased=True)
    assert parts == pytest.approx(whole, rel=1e-9)
    assert max(max(shape) for shape in seen) == 37


def record(kernel, shapes):
    def recorded(x, y):
        matrix = kernel(x, y)
        shapes.append(matrix.shape)
        return matrix

    return recorded


@pytest.mark.parametrize("size", [2, 50, 120])
def test_torch_fidelity_gives_the_same_for_the_same_seed(size):
    x, y = sets()
    theirs = kid_features_to_metric(
        x, y, kid_subsets=20, kid_subset_size=size, rng_seed=2020, verbose=False,
        kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None,
        kid_kernel_poly_coef0=1,
    )  # fmt: skip
    ours = kid(x, y, subset_size=size, subsets=20, seed=2020)
    assert abs(ours.mean - theirs["kernel_inception_distance_mean"]) <= 1e-6
    assert abs(ours.std - theirs["kernel_inception_distance_std"]) <= 1e-6


def test_identical_subsets_in_both_libraries():
    x, y = sets(150, 150, 64)

    class Identity(torch.nn.Module):
        num_features = 64

        def forward(self, features):
            return features

    metric = KernelInceptionDistance(Identity(), subsets=1, subset_size=150)
    metric.set_dtype(torch.float64)
    metric.update(x, real=False)
    metric.update(y, real=True)
    ours = kid_of_all(x, y)
    assert abs(ours - metric.compute()[0].item()) <= 1e-6
    theirs = kernel_mmd(
        x.numpy(), y.numpy(), kid_kernel="poly", kid_kernel_poly_degree=3,
        kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1,
    )  # fmt: skip
    assert abs(ours - theirs) <= 1e-6
    assert kid(x, y, subsets=3) == pytest.approx((ours, 0, 150), abs=1e-12)


def test_kid_is_unbiased_where_fid_is_not():
    values = [
        kid_of_all(random_features(20, 32, seed=2 * s), random_features(20, 32, seed=2 * s + 1))
        for s in range(60)
    ]
    values = torch.tensor(values)
    assert abs(values.mean()) < 4 * values.std() / 60**0.5


def test_kid_is_seeded_and_leaves_the_global_generators_alone():
    x, y = sets()
    state = torch.get_rng_state()
    first = kid(x, y, subset_size=30, subsets=5)
    assert first == kid(x, y, subset_size=30, subsets=5)
    assert first != kid(x, y, subset_size=30, subsets=5, seed=1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("size", [1, 121, 0, -3])
def test_subsets_that_cannot_be_drawn_are_refused(size):
    message = refusal(kid, *sets(), subset_size=size)
    assert_says(message, f"of {size} from 120", "150", "2 to 120", "Lower")


@pytest.mark.parametrize("metric", [kid, cmmd])
def test_bad_features_are_refused(metric):
    x, y = sets()
    nan = y.clone()
    nan[7, 0] = torch.nan
    assert_says(refusal(metric, x, nan), "1 of 150 real", "finite", "float32")
    assert_says(refusal(metric, x[:1], y), "1 generated", "at least 2", "Add")
    assert_says(refusal(metric, x[:, :9], y), "9 values", "16", "same network")


def test_an_embedding_of_zeros_is_refused():
    x, y = sets()
    y[4] = 0
    assert_says(refusal(cmmd, x, y), "real", "picture 4", "zero", "weights")
