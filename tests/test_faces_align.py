"""Cutting faces out: insightface's alignment, borders that go on, upright squares, masks."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from insightface.utils import face_align
from PIL import Image

from multi_ipadapter.faces.align import (
    aligned_transform,
    crop,
    loose_transform,
    similarity,
    template,
    warp,
)
from multi_ipadapter.faces.analysis import Face

from .face_graphs import shape


def picture(seed: int, width: int = 400, height: int = 360) -> np.ndarray:
    """Smooth noise: neighbours differ by some 20 grey levels."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def face(scale=1.0, roll=0.0, yaw=0.0, at=(0.0, 0.0)) -> Face:
    numbers = shape(scale, roll, yaw, at)
    box = numbers[:4] * [-1, -1, 1, 1]
    return Face(np.float32(box), numbers[4:].reshape(5, 2), 0.9)


def of_insightface(image: np.ndarray, landmarks: np.ndarray, size: int) -> np.ndarray:
    with warnings.catch_warnings():  # insightface 2.1 calls what scikit-image renames
        warnings.simplefilter("ignore", FutureWarning)
        return face_align.norm_crop(image, landmarks, size)


@pytest.mark.parametrize("size", [112, 224, 256, 512])
@pytest.mark.parametrize("seed", range(3))
def test_an_aligned_crop_is_that_of_insightface_to_a_grey_level(size, seed):
    image = picture(seed)
    generator = np.random.default_rng(seed)
    found = face(1.7, generator.uniform(-40, 40), at=(110, 80))
    found.landmarks[:] += generator.normal(0, 3, (5, 2))
    ours = warp(image, aligned_transform(found, size), size, smooth=False)
    theirs = of_insightface(image, found.landmarks, size)
    assert ours.shape == (size, size, 3) and ours.dtype == np.uint8
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert theirs.std() > 20


def test_beyond_the_border_the_outermost_pixels_go_on_where_insightface_has_black():
    image = picture(4) // 2 + 100
    found = face(1.5, at=(-60, -50))
    transform = aligned_transform(found, 112)
    ours = warp(image, transform, 112, smooth=False)
    theirs = of_insightface(image, found.landmarks, 112)
    x, y = np.meshgrid(np.arange(112), np.arange(112))
    back = np.linalg.inv(transform[:, :2])
    source = back @ (np.stack([x.ravel(), y.ravel()]) - transform[:, 2:])
    inside = (source >= 0).all(0).reshape(112, 112)
    black = (source < -1).any(0).reshape(112, 112)
    assert 1000 < inside.sum() < 12000 and black.sum() > 1000
    assert np.abs(ours.astype(int) - theirs)[inside].max() <= 1
    assert theirs[black].max() == 0 and ours.min() >= 100
    corner = ours[0, 0].astype(int)
    assert np.abs(corner - image[0, 0]).max() <= 1


def test_similarity_is_the_best_one_and_refuses_a_single_spot():
    generator = np.random.default_rng(0)
    source, target = generator.normal(0, 10, (2, 5, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        theirs = face_align.estimate_norm(source.astype(np.float32), 112)
    ours = similarity(source.astype(np.float32), template(112))
    assert np.abs(ours - theirs).max() <= 1e-4

    def error(matrix):
        return ((source @ matrix[:, :2].T + matrix[:, 2] - target) ** 2).sum()

    best = similarity(source, target)
    for _ in range(20):
        change = generator.normal(0, 0.02, 4)
        other = best + [[change[0], -change[1], change[2]], [change[1], change[0], change[3]]]
        assert error(other) > error(best)
    with pytest.raises(ValueError, match="landmarks of the face lie on one spot"):
        similarity(np.ones((5, 2)), target)


def test_a_loose_crop_is_an_upright_square_around_the_face():
    found = face(1.0, roll=20, at=(100, 60))
    left, top, right, bottom = found.box
    side = max(right - left, bottom - top) * 2
    transform = loose_transform(found, 256, margin=0.5)
    assert np.allclose(transform[:, :2], np.eye(2) * 256 / side)
    middle = np.array([left + right, top + bottom]) / 2 - 0.5
    assert np.allclose(transform[:, :2] @ middle + transform[:, 2], 127.5)
    image = np.zeros((400, 400, 3), np.uint8)
    image[round(top) : round(bottom), round(left) : round(right)] = 200
    pixels, _ = crop(image, found, 200, margin=0.5)
    rows, columns = np.nonzero(pixels[..., 0] > 100)
    assert rows.min() == 50 and rows.max() == 149  # half of the square is the face
    assert 59 <= columns.min() <= 60 and 139 <= columns.max() <= 140


@pytest.mark.parametrize("quarter", range(4))
def test_heads_on_their_side_or_upside_down_are_turned_upright(quarter):
    upright = face(1.0, at=(130, 120))
    turned = face(1.0, roll=90 * quarter, at=(130, 120))
    centre = np.array([130 + 56, 120 + 56.0])
    sine, cosine = [(0, 1), (1, 0), (0, -1), (-1, 0)][quarter]
    matrix = np.array([[cosine, -sine], [sine, cosine]])
    corners = (upright.box.reshape(2, 2) - centre) @ matrix.T + centre
    turned = Face(np.float32([*corners.min(0), *corners.max(0)]), turned.landmarks, 0.9)
    for one in (upright, turned):
        transform = loose_transform(one, 128)
        points = one.landmarks @ transform[:, :2].T + transform[:, 2]
        if one is upright:
            expected = points
    assert np.abs(points - expected).max() <= 1.01 * 128 / 200  # half a pixel each way


def test_shrinking_averages_what_falls_into_a_pixel():
    image = np.zeros((1200, 1200, 3), np.uint8)
    image[:, ::2] = 255  # stripes a pixel wide
    found = face(8.0, at=(150, 150))
    pixels, _ = crop(image, found, 64)
    assert np.abs(pixels.astype(int) - 127).max() <= 3
    rough = warp(image, loose_transform(found, 64), 64, smooth=False)
    assert np.abs(rough.astype(int) - 127).max() > 60  # what it would be otherwise


def test_shrinking_moves_nothing():
    image = picture(3, 1600, 1600)
    found = face(6.0, roll=10, at=(400, 400))
    for transform in (aligned_transform(found, 112), loose_transform(found, 112)):
        smooth, rough = (warp(image, transform, 112, s).astype(float) for s in (True, False))

        def apart(shift, smooth=smooth, rough=rough):
            return np.abs(smooth[9:-9, 9:-9] - np.roll(rough, shift, (0, 1))[9:-9, 9:-9]).mean()

        here = apart((0, 0))
        assert all(apart(s) > here for s in ((0, 1), (1, 0), (0, -1), (-1, 0)))
        left = apart((0, 1)) - apart((0, -1)), apart((1, 0)) - apart((-1, 0))
        assert np.abs(left).max() < 0.15 * apart((0, 1))  # symmetric: no half pixel either way


def test_the_mask_is_the_face_and_nothing_beyond_the_picture():
    image = picture(1)
    found = face(1.0, at=(150, 150))
    for kind in ("loose", "aligned"):
        pixels, mask = crop(image, found, 256, kind)
        assert mask.shape == (256, 256) and mask.dtype == np.float32 and pixels.shape[0] == 256
        transform = (loose_transform if kind == "loose" else aligned_transform)(found, 256)
        points = np.rint(found.landmarks @ transform[:, :2].T + transform[:, 2]).astype(int)
        assert (mask[points[:, 1], points[:, 0]] == 1).all()
        assert mask[0, 0] == mask[-1, -1] == mask[0, -1] == 0
        assert 0.05 < mask.mean() < 0.8
    _, whole = crop(image, face(1.0, at=(-30, 150)), 256)
    at_border, half = crop(image, face(1.0, at=(-60, 150)), 256)
    assert half[:, :128].sum() < 0.6 * whole[:, :128].sum()
    assert (at_border[:, 0] == at_border[:, 20]).all()  # the border goes on


def test_a_face_wholly_beyond_the_picture_gives_the_border():
    pixels, mask = crop(picture(2), face(1.0, at=(-900, -900)), 64)
    assert (pixels == picture(2)[0, 0]).all() and mask.max() == 0


def test_bad_input_is_refused():
    empty = Face(np.float32([5, 5, 5, 5]), face().landmarks, 0.9)
    with pytest.raises(ValueError, match="box of the face is empty"):
        crop(picture(0), empty, 64)
    with pytest.raises(ValueError, match="Got crop 'tight'; expected one of loose, aligned"):
        crop(picture(0), face(), 64, "tight")
