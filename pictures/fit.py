"""How a picture that is not square becomes square, and where the face in it lies."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

FITS = ("crop", "pad", "squash")
PAD = (123, 117, 104)  # CLIP's mean colour

Region = tuple[float, float, float, float]


def check_fit(fit: str) -> None:
    """Raises ValueError for a word that is not one of `FITS`."""
    if fit not in FITS:
        raise ValueError(f"Got fit {fit!r}; expected one of {', '.join(FITS)}.")


def fit_region(
    width: int, height: int, size: int, fit: str, box: tuple[int, int, int, int] | None = None
) -> Region:
    """The part of a picture, in its pixels, that the square shows.

    "crop" cuts the middle out, "pad" reaches over the edges, "squash" changes the proportions.
    """
    check_fit(fit)
    left, top, right, bottom = _inside(box, width, height) if box else (0, 0, width, height)
    if fit == "squash":
        return left, top, right, bottom
    sides = right - left, bottom - top
    half = (min(sides) if fit == "crop" else max(sides)) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    return x - half, y - half, x + half, y + half


def _inside(box: tuple[int, int, int, int], width: int, height: int) -> Region:
    left, top, right, bottom = box
    left, right = max(0, left), min(width, right)
    top, bottom = max(0, top), min(height, bottom)
    return (left, top, right, bottom) if right > left and bottom > top else (0, 0, width, height)


def render(image: Image.Image, region: Region, size: int, fill) -> np.ndarray:
    """The region, resized to size x size: uint8 [size, size(, bands)]; `fill` beyond the edges."""
    x_scale, y_scale = size / (region[2] - region[0]), size / (region[3] - region[1])
    box = (
        max(0.0, region[0]),
        max(0.0, region[1]),
        min(float(image.width), region[2]),
        min(float(image.height), region[3]),
    )
    left, top = round((box[0] - region[0]) * x_scale), round((box[1] - region[1]) * y_scale)
    width = max(1, min(size - left, round((box[2] - box[0]) * x_scale)))
    height = max(1, min(size - top, round((box[3] - box[1]) * y_scale)))
    part = image.resize((width, height), Image.Resampling.BICUBIC, box, reducing_gap=3)
    if (width, height) != (size, size):
        canvas = Image.new(image.mode, (size, size), fill)
        canvas.paste(part, (left, top))
        part = canvas
    return np.array(part)


def face_mask(landmarks: tuple[float, ...], region: Region, size: int) -> Tensor | None:
    """An ellipse over the face, [size, size] in 0..1; None when the landmarks lie on one spot.

    It reaches from the hairline to the chin: 1.55 times the way from eyes to mouth to both sides
    of a centre a third below the eyes, and 1.15 times the distance of the eyes sideways.
    """
    scale = np.array([size / (region[2] - region[0]), size / (region[3] - region[1])])
    points = (np.reshape(landmarks, (5, 2)) - np.asarray(region[:2])) * scale
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    length = float(np.linalg.norm(mouth - eyes))
    if length < 1e-3:
        return None
    down = (mouth - eyes) / length
    # In profile the eyes are close together, but the head is no narrower than that.
    across = max(1.15 * float(np.linalg.norm(points[1] - points[0])), length)
    along = 1.55 * length
    y, x = np.mgrid[0:size, 0:size] + 0.5
    x, y = x - (eyes + 0.35 * length * down)[0], y - (eyes + 0.35 * length * down)[1]
    radius = np.hypot((x * down[0] + y * down[1]) / along, (y * down[0] - x * down[1]) / across)
    soft = ((1 - radius) * min(along, across) + 0.5).clip(0, 1)  # an edge one pixel wide
    return torch.from_numpy(soft.astype(np.float32))
