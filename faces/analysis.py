"""What every face analyser gives: the faces of one picture, and an embedding of a face."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

EMBEDDING = 512  # width of the recognisers of the published packs


@dataclass(frozen=True, eq=False)
class Face:
    """A face in a picture.

    Attributes:
        box: left, top, right, bottom in pixels, float32 [4]; may reach over the picture's border.
        landmarks: left eye, right eye, nose tip, left and right corner of the mouth, as seen in
            the picture, in pixels, float32 [5, 2].
        score: the detector's, 0 .. 1.
        quarters: turns of 90 degrees to the left after which the picture showed it upright, if it
            was found only so.
    """

    box: np.ndarray
    landmarks: np.ndarray
    score: float
    quarters: int = 0

    @property
    def size(self) -> float:
        """Geometric mean of the box's sides, in pixels."""
        width, height = self.box[2:] - self.box[:2]
        return float(max(width, 0) * max(height, 0)) ** 0.5


class FaceAnalyser(Protocol):
    """A detector with landmarks and, if there is one, a recogniser.

    Attributes:
        name: for messages and reports, such as "insightface buffalo_l".
        recogniser: name of the embedding space; "" if it cannot embed. Embeddings of different
            recognisers must not be compared.
    """

    name: str
    recogniser: str

    def detect(self, picture: np.ndarray) -> list[Face]:
        """Faces of an RGB picture, uint8 [H, W, 3], the largest first."""

    def embed(self, picture: np.ndarray, face: Face) -> np.ndarray:
        """The recogniser's output for a face, float32 [512], not normalised.

        Raises:
            ValueError: there is no recogniser.
        """
