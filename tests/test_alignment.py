"""Image, text and identity similarities against the protocols' definitions written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from multi_ipadapter.evaluation.metrics.alignment import (
    clip_score,
    copy_paste,
    identity_similarity,
    image_alignment,
    nearest_reference_margin,
    text_alignment,
)

from .builders import assert_says, refusal
from .features import random_features


def turned(*degrees: float) -> torch.Tensor:
    """Unit vectors of a plane, [N, 2]."""
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_image_alignment_is_the_mean_of_the_full_cosine_matrix():
    x, y = random_features(6, 16), random_features(4, 16, seed=1)
    matrix = cosine_similarity(x[:, None], y[None], dim=-1)
    torch.testing.assert_close(image_alignment(x, y), matrix.mean(dim=1), rtol=1e-12, atol=1e-12)
    assert image_alignment(3 * x, 0.2 * y).mean().item() == pytest.approx(matrix.mean().item())
    assert image_alignment(x.half(), y.half()).dtype == torch.float64
    assert image_alignment(turned(-30, 30), turned(0)).mean() == pytest.approx(3**0.5 / 2)


def test_text_alignment_pairs_pictures_with_their_prompts():
    x, y = random_features(6, 16), random_features(6, 16, seed=1)
    wanted = cosine_similarity(x, y, dim=1)
    torch.testing.assert_close(text_alignment(x, y), wanted, rtol=1e-12, atol=1e-12)
    one = text_alignment(x, y[:1])
    torch.testing.assert_close(one, image_alignment(x, y[:1]), rtol=1e-12, atol=1e-12)


def test_clip_score_is_two_and_a_half_times_what_is_positive():
    found = clip_score(turned(0, 60, 90, 180), turned(0)).tolist()
    assert found == pytest.approx([2.5, 1.25, 0, 0], abs=1e-12)


def test_prompts_of_another_number_are_refused():
    x, y = random_features(6, 16), random_features(4, 16)
    assert_says(refusal(text_alignment, x, y), "4 prompt", "6 pictures", "6, or 1", "order")


def test_pictures_without_a_face_lower_the_rate_and_not_the_mean():
    generated = torch.cat([turned(0, 60), torch.full((2, 2), torch.nan).double()])
    found = torch.tensor([True, True, False, False])
    result = identity_similarity(generated, found, turned(0, 0))
    assert result.mean == pytest.approx(0.75) and result.detection_rate == 0.5
    assert result.per_image[:2].tolist() == pytest.approx([1, 0.5])
    assert result.per_image[2:].isnan().all()


def test_no_face_at_all_is_no_similarity():
    result = identity_similarity(torch.zeros(3, 2), torch.zeros(3, dtype=torch.bool), turned(0))
    assert math.isnan(result.mean) and result.detection_rate == 0


def test_marks_of_another_kind_are_refused():
    x = random_features(3, 2)
    for found in (torch.ones(2, dtype=torch.bool), torch.ones(3)):
        message = refusal(identity_similarity, x, found, x)
        assert_says(message, "marks", "3 pictures", "true or false", "detector")


def test_copy_paste_goes_from_target_to_reference():
    reference, target = turned(0), turned(40)
    found = copy_paste(turned(0, 10, 20, 30, 40), reference, target)
    assert found.tolist() == pytest.approx([1, 0.5, 0, -0.5, -1], abs=1e-12)


def test_copy_paste_takes_the_nearest_of_several_references_and_each_target():
    found = copy_paste(turned(90, 0), turned(0, 90), turned(50, 10))
    assert found.tolist() == pytest.approx([1, 1], abs=1e-12)


def test_copy_paste_of_a_reference_that_is_the_target_is_zero():
    assert copy_paste(turned(30), turned(0), turned(0)).tolist() == [0]


def test_copy_paste_keeps_its_digits_for_near_pictures():
    found = copy_paste(turned(0.001), turned(0), turned(0.004)).item()
    assert found == pytest.approx(0.5, abs=1e-9)


def test_a_picture_between_its_references_leans_to_none():
    found = nearest_reference_margin(turned(0, 30), turned(-30, 30)).tolist()
    assert found == pytest.approx([0, 0.5], abs=1e-12)
    three = nearest_reference_margin(turned(0), turned(0, 60, -60)).item()
    assert three == pytest.approx(0.5)
    message = refusal(nearest_reference_margin, turned(0), turned(0))
    assert_says(message, "1 reference", "at least 2", "leave")


@pytest.mark.parametrize("metric", [image_alignment, text_alignment, clip_score, copy_paste])
def test_bad_features_are_refused(metric):
    x = random_features(3, 4)
    more = (x,) if metric is copy_paste else ()
    zero, nan = x.clone(), x.clone()
    zero[1], nan[2] = 0, torch.nan
    assert_says(refusal(metric, zero, x, *more), "generated", "picture 1", "zero", "weights")
    assert_says(refusal(metric, nan, x, *more), "1 of 3 generated", "finite", "float32")
    assert_says(refusal(metric, x, x[:, :3], *more), "4 values", "3", "same network")
    assert_says(refusal(metric, x[:0], x, *more), "0 generated", "at least 1", "Add")
