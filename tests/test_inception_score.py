"""Inception Score against its extremes and public libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric
from torchmetrics.image.inception import InceptionScore

from multi_ipadapter.evaluation.metrics.inception_score import inception_score

from .builders import assert_says, refusal


def logits(n=203, classes=50, seed=0):
    random = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n, classes, generator=random)


@pytest.mark.parametrize("splits", [1, 2, 10, 203])
def test_torch_fidelity_gives_the_same_for_the_same_seed(splits):
    theirs = isc_features_to_metric(logits(), splits=splits, shuffle=True, rng_seed=2020)
    ours = inception_score(logits(), splits=splits, seed=2020)
    assert abs(ours.mean - theirs["inception_score_mean"]) <= 1e-6
    assert abs(ours.std - theirs["inception_score_std"]) <= 1e-6


def test_torchmetrics_gives_the_same_on_one_split():
    metric = InceptionScore(torch.nn.Identity(), splits=1)
    metric.update(logits().double())
    assert abs(inception_score(logits(), splits=1).mean - metric.compute()[0].item()) <= 1e-6


def test_torchmetrics_gives_the_same_on_the_same_splits(monkeypatch):
    x = logits(200).double()
    metric = InceptionScore(torch.nn.Identity(), splits=10)
    metric.update(x)
    order = torch.from_numpy(np.random.RandomState(3).permutation(200))
    monkeypatch.setattr(torch, "randperm", lambda n, **kwargs: order)  # it cannot be seeded
    mean, std = metric.compute()
    ours = inception_score(x, splits=10, seed=3)
    assert abs(ours.mean - mean.item()) <= 1e-6
    assert abs(ours.std * (10 / 9) ** 0.5 - std.item()) <= 1e-6  # theirs has ddof 1


def test_the_extremes():
    certain = 1e4 * torch.eye(8)
    assert inception_score(certain, splits=1) == pytest.approx((8, 0), rel=1e-12)
    same = torch.ones(6, 8)
    assert inception_score(same, splits=2) == pytest.approx((1, 0), abs=1e-12)
    one_each = inception_score(logits(10), splits=10)  # nothing to compare within a split
    assert one_each == pytest.approx((1, 0), abs=1e-12)


def test_classes_of_no_probability_give_no_nan():
    score = inception_score(torch.tensor([[0.0, 0.0, -5000.0], [3.0, 0.0, -5000.0]]), splits=1)
    two = inception_score(torch.tensor([[0.0, 0.0], [3.0, 0.0]]), splits=1)
    assert score.mean == pytest.approx(two.mean, rel=1e-12)


def test_the_order_is_drawn_from_the_seed_alone():
    state = torch.get_rng_state()
    assert inception_score(logits(), seed=1) == inception_score(logits(), seed=1)
    assert inception_score(logits(), seed=1) != inception_score(logits(), seed=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_bad_input_is_refused():
    assert_says(refusal(inception_score, logits(5)), "10 splits", "5 pictures", "1 to 5", "Lower")
    assert_says(refusal(inception_score, logits(), splits=0), "0 splits", "1 to 203", "Lower")
    assert_says(refusal(inception_score, logits(1), splits=1), "1 generated", "at least 2", "Add")
    nan = logits()
    nan[2] = torch.nan
    assert_says(refusal(inception_score, nan), "1 of 203", "NaN", "[2]", "float32")
