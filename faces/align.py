"""A picture and a face in it -> the square that shows the face, and which part of it is face."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from ..pictures.fit import face_mask
from .analysis import Face

CROPS = ("loose", "aligned")
MARGIN = 0.5  # with hair and chin
_STRIP = 128  # lines that are computed at a time; bounds the memory
# Eyes, nose and corners of the mouth in ArcFace's crop of 112 x 112 pixels (arXiv 1801.07698).
TEMPLATE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)


def template(size: int) -> np.ndarray:
    """Where the five landmarks lie in an aligned crop, in pixels, [5, 2].

    As insightface: multiples of 112 scale the crop of 112; those of 128 alone (256, 512) scale
    one of 128 that shows 8 pixels more on both sides. Every other size scales that of 112.
    """
    if size % 128 == 0 and size % 112:
        return (TEMPLATE + [8, 0]) * (size / 128)
    return TEMPLATE * (size / 112)


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rotation, scale and shift, [2, 3], that move points closest to others, both [n, 2].

    Least squares in closed form (Umeyama 1991), never a reflection.

    Raises:
        ValueError: the points lie on one spot.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    middle, aim = source.mean(0), target.mean(0)
    # As complex numbers the best rotation and scale is a single quotient.
    a, b = (source - middle) @ [1, 1j], (target - aim) @ [1, 1j]
    spread = np.vdot(a, a).real
    if not np.isfinite(spread) or spread < 1e-6:
        raise ValueError("The landmarks of the face lie on one spot.")
    turn = np.vdot(a, b) / spread
    linear = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    return np.column_stack([linear, aim - linear @ middle])


def aligned_transform(face: Face, size: int) -> np.ndarray:
    """From pixels of the picture to those of the aligned crop, [2, 3]; eyes level."""
    return similarity(face.landmarks, template(size))


def loose_transform(face: Face, size: int, margin: float = MARGIN) -> np.ndarray:
    """From pixels of the picture to those of an upright square around the face, [2, 3].

    Args:
        margin: what is shown on every side of the face, as a part of its larger side. Heads that
            lie on their side or are upside down are turned by quarters.
    """
    left, top, right, bottom = face.box.astype(np.float64)
    side = max(right - left, bottom - top) * (1 + 2 * margin)
    if not side > 0:
        raise ValueError("The box of the face is empty.")
    down = face.landmarks[3:].mean(0) - face.landmarks[:2].mean(0)
    quarters = round(math.atan2(-down[0], down[1]) / (math.pi / 2))  # 0: upright
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarters % 4]
    linear = np.array([[cos, sin], [-sin, cos]]) * (size / side)
    middle = np.array([left + right, top + bottom]) / 2 - 0.5  # of pixels, not of their corners
    return np.column_stack([linear, (size - 1) / 2 - linear @ middle])


def warp(picture: np.ndarray, transform: np.ndarray, size: int, smooth: bool = True) -> np.ndarray:
    """A square of a picture; beyond the border its outermost pixels go on.

    Args:
        picture: uint8 [H, W, 3].
        transform: [2, 3], from pixels of the picture to those of the square, counted at their
            centres, as OpenCV does.
        smooth: bicubic, with everything averaged that falls into one pixel; False: bilinear
            between four pixels, as insightface cuts out what recognisers see.

    Returns:
        uint8 [size, size, 3].
    """
    if smooth:
        picture, transform = _shrunk(picture, transform, size)
    starts = range(0, size, _STRIP)
    strips = [range(start, min(start + _STRIP, size)) for start in starts]
    return np.concatenate([_warped(picture, transform, size, rows, smooth) for rows in strips])


def _warped(picture: np.ndarray, transform: np.ndarray, size: int, lines: range, smooth: bool):
    """Some lines of `warp`."""
    points = _sources(transform, size, lines)
    first = np.floor(points).astype(np.int64)
    weights = (_cubic if smooth else _linear)(points - first)  # [taps, 2, lines, size]
    start = 1 - len(weights) // 2
    limits = np.array(picture.shape[1::-1]).reshape(2, 1, 1) - 1
    columns, rows = zip(
        *((first + start + n).clip(0, limits) for n in range(len(weights))), strict=True
    )
    out = np.zeros((len(lines), size, picture.shape[2]))
    for row, (_, weight) in zip(rows, weights, strict=True):
        line = sum(
            picture[row, column] * across[..., None]
            for column, (across, _) in zip(columns, weights, strict=True)
        )
        out += line * weight[..., None]
    return np.rint(out).clip(0, 255).astype(np.uint8)


def crop(picture: np.ndarray, face: Face, size: int, kind: str = "loose", margin: float = MARGIN):
    """The square that shows a face, uint8 [size, size, 3], and its mask, float32 [size, size].

    The mask is 1 on the face (`pictures.fit.face_mask`: an ellipse from hairline to chin, its
    edge a pixel wide) and 0 around it, and 0 wherever the square reaches over the picture: what
    masked training needs, as a loss there would teach hair, background and repeated border.

    Args:
        kind: "loose" (`loose_transform`) or "aligned" (`aligned_transform`), which has the pixels
            that insightface cuts out.

    Raises:
        ValueError: another kind, or landmarks or a box that make no face.
    """
    if kind not in CROPS:
        raise ValueError(f"Got crop {kind!r}; expected one of {', '.join(CROPS)}.")
    if kind == "loose":
        transform = loose_transform(face, size, margin)
    else:
        transform = aligned_transform(face, size)
    points = face.landmarks @ transform[:, :2].T + transform[:, 2] + 0.5
    ellipse = face_mask(points.ravel().tolist(), (0, 0, size, size), size)
    inside = _inside(_sources(transform, size), picture.shape)
    mask = inside if ellipse is None else inside * ellipse.numpy()
    return warp(picture, transform, size, kind == "loose"), mask.astype(np.float32)


def _sources(transform: np.ndarray, size: int, lines: range | None = None) -> np.ndarray:
    """Where in the picture each pixel of the square comes from: x and y, [2, size, size].

    Args:
        lines: of the square; all by default.
    """
    lines = range(size) if lines is None else lines
    back = np.linalg.inv(transform[:, :2])
    y, x = np.mgrid[lines.start : lines.stop, 0:size]
    shifted = np.stack([x, y]) - transform[:, 2].reshape(2, 1, 1)
    return np.einsum("ij,jyx->iyx", back, shifted)


def _inside(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Which pixels of the square show the picture itself, [size, size]."""
    x, y = points
    return (x >= -0.5) & (y >= -0.5) & (x <= shape[1] - 0.5) & (y <= shape[0] - 0.5)


def _shrunk(picture: np.ndarray, transform: np.ndarray, size: int):
    """The part of the picture that the square shows, not finer than the square."""
    height, width = picture.shape[:2]
    factor = math.sqrt(abs(np.linalg.det(transform[:, :2])))
    points = _sources(transform, size)[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    reach = 4 / min(factor, 1)  # what the filters see beyond the square
    low = np.floor(points.min(1) - reach).clip(0, [width - 1, height - 1]).astype(int)
    high = np.ceil(points.max(1) + reach + 1).clip(low + 1, [width, height]).astype(int)
    part = picture[low[1] : high[1], low[0] : high[0]]
    moved = transform + np.column_stack([np.zeros((2, 2)), transform[:, :2] @ low])
    if factor >= 1:
        return part, moved
    sides = np.maximum(np.rint((high - low) * factor), 1).astype(int)
    small = Image.fromarray(part).resize(tuple(sides.tolist()), Image.Resampling.BICUBIC)
    ratio = (high - low) / sides
    # Centres: x = (x' + 1/2) ratio - 1/2
    shift = moved[:, :2] @ ((ratio - 1) / 2) + moved[:, 2]
    return np.asarray(small), np.column_stack([moved[:, :2] * ratio, shift])


def _linear(t: np.ndarray) -> np.ndarray:
    return np.stack([1 - t, t])


def _cubic(t: np.ndarray) -> np.ndarray:
    """Weights of the pixels at -1, 0, 1 and 2 (Keys 1981, a = -1/2)."""
    return np.stack(
        [
            ((2 - t) * t - 1) * t / 2,
            ((3 * t - 5) * t * t + 2) / 2,
            ((4 - 3 * t) * t + 1) * t / 2,
            (t - 1) * t * t / 2,
        ]
    )
