"""A picture -> its faces, looked for harder where none is found at once, and the one it is of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from .align import aligned_transform
from .analysis import Face, FaceAnalyser

_SMALL = 1280  # pixels; twice of what detectors look at
_MIDDLE = 0.25  # of a face's size: so far from the middle it still is where Prepare Faces puts it


def find_faces(analyser: FaceAnalyser, picture: np.ndarray) -> list[Face]:
    """Faces of a picture uint8 [H, W, 3], the largest first.

    Where none is found, those of the picture with a border around, for faces that fill it; then of
    the picture on its side or upside down, as without the tag that says how it was held.
    """
    return (
        analyser.detect(picture)
        or _detect_with_border(analyser, picture)
        or _detect_turned(analyser, picture)
    )


def main_face(analyser: FaceAnalyser, picture: np.ndarray) -> Face | None:
    """The face that a picture uint8 [H, W, 3] is of; None where there is none.

    The one in the very middle of a square, as Prepare Faces cuts it out, even if a neighbour is
    larger; otherwise the largest. Faces whose landmarks lie on one spot are none.
    """
    faces = [face for face in find_faces(analyser, picture) if _has_landmarks(face)]
    height, width = picture.shape[:2]
    for face in sorted(faces, key=lambda face: _from_middle(face, width)):
        if height == width and _from_middle(face, width) < _MIDDLE * face.size:
            return face
    return max(faces, key=lambda face: face.size, default=None)


def is_usable(embedding: np.ndarray) -> bool:
    """Whether a recogniser's output is that of a face: finite numbers, not all of them 0."""
    return bool(np.isfinite(embedding).all() and embedding.any())


def _has_landmarks(face: Face) -> bool:
    try:
        aligned_transform(face, 112)
    except ValueError:
        return False
    return True


def _from_middle(face: Face, side: int) -> float:
    """Distance in pixels, along the axis that it is larger on."""
    return float(np.abs((face.box[:2] + face.box[2:] - side) / 2).max())


def _detect_with_border(analyser: FaceAnalyser, picture: np.ndarray) -> list[Face]:
    """In a small copy, which shows a face that fills the picture just as well."""
    height, width = picture.shape[:2]
    scale = min(1.0, _SMALL / max(height, width))
    sides = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(Image.fromarray(picture).resize(sides, Image.Resampling.BICUBIC))
    border = max(sides) // 2
    wide = np.pad(small, ((border, border), (border, border), (0, 0)))
    ratio = np.array([width, height], np.float32) / sides
    return [
        replace(
            face,
            box=((face.box.reshape(2, 2) - border) * ratio).ravel(),
            landmarks=(face.landmarks - border + 0.5) * ratio - 0.5,  # of pixels' centres
        )
        for face in analyser.detect(wide)
    ]


def _detect_turned(analyser: FaceAnalyser, picture: np.ndarray) -> list[Face]:
    """Faces of the quarter turn with the surest face; heads seldom stand otherwise too."""
    found = []
    for quarters in (1, 3, 2):
        faces = analyser.detect(np.ascontiguousarray(np.rot90(picture, quarters)))
        found.append([_turned_back(face, quarters, picture.shape) for face in faces])
    return max(found, key=lambda faces: max((face.score for face in faces), default=0))


def _turned_back(face: Face, quarters: int, shape: tuple[int, ...]) -> Face:
    """A face of `np.rot90(picture, quarters)` where it is in the picture of this shape."""
    corners, points = face.box.reshape(2, 2), face.landmarks
    for step in reversed(range(quarters)):
        width = shape[1 - step % 2]  # of the picture with a quarter less
        corners = np.stack([width - corners[:, 1], corners[:, 0]], 1)
        points = np.stack([width - 1 - points[:, 1], points[:, 0]], 1)  # of pixels' centres
    box = np.concatenate([corners.min(0), corners.max(0)])
    return replace(face, box=box, landmarks=points, quarters=quarters)
