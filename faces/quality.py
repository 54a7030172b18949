"""A face in a picture -> how well it shows its person, as one number with its parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .align import aligned_transform, warp
from .analysis import Face

_SIDE = 112  # of the crop that is measured
_LARGE = 256  # pixels; a larger face shows nothing more at 512
_SHARP = 100.0  # variance of the Laplacian that counts half


@dataclass(frozen=True)
class Quality:
    """Parts in 0..1, more is better.

    Attributes:
        size: of the face in the picture, full from 256 pixels on.
        sharpness: v / (v + 100), v the variance of the Laplacian of the aligned 112-pixel crop in
            grey levels; of the same size for all, so that large faces do not seem blurred.
        pose: 1 for a face seen from the front, 0 in profile, from where the nose lies.
        score: of the detector.
    """

    size: float
    sharpness: float
    pose: float
    score: float

    @property
    def total(self) -> float:
        """Geometric mean: one bad part cannot be made up for by the others."""
        parts = (self.size, self.sharpness, self.pose, self.score)
        return float(np.prod(np.maximum(parts, 1e-3)) ** (1 / len(parts)))

    def __str__(self) -> str:
        return (
            f"quality {self.total:.2f}: size {self.size:.2f}, sharpness {self.sharpness:.2f}, "
            f"pose {self.pose:.2f}, detector {self.score:.2f}"
        )


def measure(picture: np.ndarray, face: Face) -> Quality:
    """Quality of a face of an RGB picture, uint8 [H, W, 3].

    Raises:
        ValueError: its landmarks lie on one spot.
    """
    crop = warp(picture, aligned_transform(face, _SIDE), _SIDE)
    variance = laplacian_variance(crop @ [0.299, 0.587, 0.114])
    return Quality(
        min(face.size / _LARGE, 1.0),
        variance / (variance + _SHARP),
        frontality(face.landmarks),
        float(np.clip(face.score, 0, 1)),
    )


def laplacian_variance(grey: np.ndarray) -> float:
    """Variance of the 4-neighbour Laplacian of [H, W], without the border."""
    inner = grey[1:-1, 1:-1]
    sides = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((sides - 4 * inner).var())


def frontality(landmarks: np.ndarray) -> float:
    """1 where the nose lies on the middle line of eyes and mouth, 0 where it reaches an eye."""
    left, right, nose, *mouth = landmarks.astype(np.float64)
    middle = (left + right + mouth[0] + mouth[1]) / 4
    across = right - left
    width = float(across @ across)
    if width < 1e-6:  # both eyes on one spot
        return 0.0
    return max(0.0, 1.0 - 2.0 * abs(float((nose - middle) @ across)) / width)
