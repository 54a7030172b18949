"""Improved precision and recall against a public library and sets whose answer is known."""

from __future__ import annotations

import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from multi_ipadapter.evaluation.metrics import manifold
from multi_ipadapter.evaluation.metrics.manifold import precision_recall

from .builders import assert_says, refusal
from .features import random_features


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("blocks", [(512, 4096), (11, 17)])
def test_torch_fidelity_gives_the_same(monkeypatch, k, blocks):
    x, y = random_features(150, 8), 0.7 * random_features(200, 8, seed=1, mean=0.3)
    theirs = prc_features_to_metric(
        x, y, prc_neighborhood=k, prc_batch_size=100, save_cpu_ram=False, verbose=False
    )
    monkeypatch.setattr(manifold, "_ROWS", blocks[0])
    monkeypatch.setattr(manifold, "_COLUMNS", blocks[1])
    found = precision_recall(x, y, k)
    assert 0 < found.precision < 1 and 0 < found.recall < 1
    assert found.precision == pytest.approx(theirs["precision"], abs=1e-6)
    assert found.recall == pytest.approx(theirs["recall"], abs=1e-6)


def test_equal_and_distant_sets():
    x = random_features(50, 8)
    assert precision_recall(x, x) == (1, 1)
    assert precision_recall(x, x + 1000) == (0, 0)


def test_one_kind_of_many_is_precise_but_not_complete():
    kinds = torch.arange(10.0)[:, None] * 100 + random_features(200, 1).float().view(10, 20)
    real = torch.stack([kinds.flatten(), torch.zeros(200)], dim=1)
    found = precision_recall(real[20:40] + 1e-4, real)
    assert found.precision == 1 and found.recall == pytest.approx(0.1, abs=0.01)


def test_bad_input_is_refused():
    x = random_features(5, 8)
    assert_says(refusal(precision_recall, x, x, k=5), "k = 5", "5 generated", "1 to 4", "Lower")
    assert_says(refusal(precision_recall, x, x, k=0), "k = 0", "1 to 4", "Lower")
    assert_says(refusal(precision_recall, x, x[:, :3]), "8 values", "3", "same network")
    assert_says(refusal(precision_recall, x * torch.nan, x), "5 of 5 generated", "finite")
