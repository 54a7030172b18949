"""Pictures with coloured blocks for faces, and an analyser that finds them and tells them apart."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from multi_ipadapter.faces.analysis import EMBEDDING, Face

_BLUE = 255  # no other pixel of the pictures has so much of it
_PLACES = np.array([[0.3, 0.35], [0.7, 0.35], [0.5, 0.55], [0.35, 0.75], [0.65, 0.75]])


class BlockAnalyser:
    """A `FaceAnalyser`: every blue block is a face, and its pattern is who it is.

    The score is the share of the block's box that is blue.
    """

    def __init__(self, recogniser: str = "w600k_r50", width: int = EMBEDDING, length: float = 20):
        self.name, self.recogniser = "blocks", recogniser
        self._length = length
        random = np.random.default_rng(5)
        self._mixing = random.standard_normal((2 * 8 * 8, width)).astype(np.float32)

    def detect(self, picture: np.ndarray) -> list[Face]:
        """Blocks, the largest first."""
        assert picture.dtype == np.uint8 and picture.ndim == 3
        blue = picture[:, :, 2] == _BLUE
        labels, _ = ndimage.label(blue)
        faces = []
        for rows, columns in ndimage.find_objects(labels):
            left, top = columns.start, rows.start
            size = np.array([columns.stop - left, rows.stop - top])
            box = np.array([left, top, left + size[0], top + size[1]], np.float32)
            landmarks = (_PLACES * size + [left, top]).astype(np.float32)
            faces.append(Face(box, landmarks, float(blue[rows, columns].mean())))
        return sorted(faces, key=lambda face: -face.size)

    def embed(self, picture: np.ndarray, face: Face) -> np.ndarray:
        """Embedding of the block's red and green, seen at 8 x 8 points."""
        left, top, right, bottom = face.box
        x = np.linspace(left, right - 1, 8).astype(int)
        y = np.linspace(top, bottom - 1, 8).astype(int)
        seen = picture[np.ix_(y, x)][:, :, :2].astype(np.float32) / 255 - 0.5
        mixed = seen.reshape(-1) @ self._mixing
        return (self._length * mixed / np.linalg.norm(mixed)).astype(np.float32)


def person(seed: int) -> np.ndarray:
    """A pattern [8, 8, 2] in 0..200."""
    return np.random.default_rng(seed).integers(0, 200, (8, 8, 2))


def block_picture(
    *people: tuple[int, int], size: tuple[int, int] = (160, 120), seed: int = 0, score: float = 1.0
) -> Tensor:
    """[1, H, W, 3] in 0..1 with a block for each (person, side), beside each other.

    Args:
        score: share of each block that is blue; the others of its rows stay grey.
    """
    picture = np.random.default_rng(seed).integers(0, 200, (*size, 3)).astype(np.uint8)
    left = 4
    for who, side in people:
        at = np.arange(side) * 8 // side
        block = np.full((side, side, 3), _BLUE, np.uint8)
        block[:, :, :2] = person(who)[np.ix_(at, at)]
        block[1 : 1 + round((1 - score) * side), 1:-1, 2] = 0
        picture[4 : 4 + side, left : left + side] = block
        left += side + 4
    return torch.from_numpy(picture).float()[None] / 255


def block_pictures(*people: int, side: int = 60) -> dict[str, Tensor]:
    """One picture of each person, under the names of the encoder's inputs."""
    return {
        f"reference_image_{i}": block_picture((who, side), seed=i) for i, who in enumerate(people)
    }
