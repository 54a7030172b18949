"""Confidence intervals: known cases, coverage where pictures of a cluster are alike, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from multi_ipadapter.evaluation.metrics.intervals import mean_interval

from .builders import assert_says, refusal


def grid(identities=12, prompts=10, copies=2, who=1.0, what=0.5, noise=0.2, seed=0):
    """Values with an effect of each identity and each prompt, and their labels."""
    random = np.random.default_rng(seed)
    i, p = (a.ravel() for a in np.mgrid[:identities, :prompts].repeat(copies, axis=2))
    effects = who * random.normal(size=identities), what * random.normal(size=prompts)
    values = effects[0][i] + effects[1][p] + noise * random.normal(size=len(i))
    return values, [f"person {x}" for x in i], [f"prompt {x}" for x in p]


def width(interval):
    return interval.high - interval.low


def test_the_mean_is_the_plain_mean_and_within():
    values, who, what = grid()
    found = mean_interval(values, who, what)
    assert found.mean == pytest.approx(values.mean()) and found.n == 240
    assert found.low < found.mean < found.high
    assert found.resampled == "identities and prompts" and found.clusters == 10


def test_independent_pictures_agree_with_the_standard_error():
    values = np.random.default_rng(1).normal(size=400)
    found = mean_interval(values)
    assert found.resampled == "images" and found.clusters == 400
    wanted = 2 * 1.96 * values.std() / 20
    assert width(found) == pytest.approx(wanted, rel=0.1)


def test_equal_values_have_an_interval_of_no_width():
    found = mean_interval(torch.full((6,), 0.5), list("aabbcc"))
    assert (found.low, found.mean, found.high) == (0.5, 0.5, 0.5)


def test_alike_pictures_do_not_make_it_shorter():
    """Each picture ten times over: what is known about identities and prompts stays the same."""
    values, who, what = grid(copies=1)
    once = mean_interval(values, who, what)
    tenfold = mean_interval(np.tile(values, 10), who * 10, what * 10)
    assert width(tenfold) == pytest.approx(width(once), rel=1e-6)
    naive = width(mean_interval(np.tile(values, 10)))
    assert naive < 0.5 * width(mean_interval(values))


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """The truth is 0: identities and prompts are draws, and differ more than their pictures."""
    both = images = 0
    for seed in range(120):
        values, who, what = grid(15, 15, 2, seed=seed)
        found = mean_interval(values, who, what, confidence=0.9, resamples=300)
        both += found.low <= 0 <= found.high
        naive = mean_interval(values, confidence=0.9, resamples=300)
        images += naive.low <= 0 <= naive.high
    assert both >= 0.8 * 120  # 15 clusters: somewhat short of 0.9
    assert images <= 0.6 * 120


def test_the_width_of_an_interval_by_identity():
    values, who, _ = grid(40, 1, 5, who=1, what=0, noise=0)
    found = mean_interval(values, who)
    assert found.resampled == "identities" and found.clusters == 40
    assert width(found) == pytest.approx(2 * 1.96 * values.std() / 40**0.5, rel=0.1)


@pytest.mark.parametrize(
    ("who", "what", "resampled", "clusters"),
    [
        (list("aaaa"), list("pppp"), "images", 4),
        (list("aabb"), list("pppp"), "identities", 2),
        (list("aaaa"), list("ppqr"), "prompts", 3),
        (list("aabb"), list("rrqq"), "identities", 2),
        (list("aabb"), list("pqpq"), "identities and prompts", 2),
        (None, list("ppqq"), "prompts", 2),
        ([("x", 1), ("x", 2), ("x", 1), ("x", 2)], None, "identities", 2),
    ],
)
def test_a_factor_is_resampled_if_it_varies_on_its_own(who, what, resampled, clusters):
    found = mean_interval([1.0, 2.0, 3.0, 5.0], who, what)
    assert (found.resampled, found.clusters) == (resampled, clusters)
    assert found.low < found.high


def test_it_is_seeded_and_wider_for_more_confidence():
    values, who, what = grid()
    found = mean_interval(values, who, what)
    assert found == mean_interval(values, who, what)
    assert found != mean_interval(values, who, what, seed=1)
    assert width(mean_interval(values, who, what, confidence=0.99)) > width(found)


def test_bad_input_is_refused():
    assert_says(refusal(mean_interval, [1.0]), "[1]", "at least 2", "Add pictures")
    assert_says(refusal(mean_interval, [1.0, np.nan, 2]), "1 of 3", "NaN", "Leave out")
    message = refusal(mean_interval, [1.0, 2.0], prompts=["a"])
    assert_says(message, "1 prompts", "2 values", "one each", "same pictures")
    assert_says(refusal(mean_interval, [1.0, 2.0], confidence=95), "95", "0.95", "Change")
    assert_says(refusal(mean_interval, [1.0, 2.0], resamples=0), "0 resamples", "1", "Change")
