"""What the benchmark of Prepare Faces reads: large JPEGs, and graphs that know their faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..tests import face_graphs

WIDTH, HEIGHT = 4032, 3024  # 12.2 megapixels
DETECTED = 640  # pixels of the longer side when faces are looked for
MOST = face_graphs.LEVELS**2  # faces that the recogniser tells apart
_BACKGROUNDS = 4


def write_pack(folder: Path) -> Path:
    """models/insightface/models/buffalo_l: all pictures show the same person, a little changed."""
    random = np.random.default_rng(0)
    person = random.standard_normal(512)
    views = person + 0.5 * random.standard_normal((MOST, 512))
    path = folder / "models" / "insightface" / "models" / "buffalo_l"
    return face_graphs.write_pack(path, [face_graphs.shape(2.0)], views.astype(np.float32))


def write_pictures(folder: Path, count: int) -> None:
    """JPEG files of smooth colours with grain, which pack about as badly as photos."""
    folder.mkdir(parents=True)
    backgrounds = [_background(seed) for seed in range(min(count, _BACKGROUNDS))]
    zoom = WIDTH / DETECTED
    for number in range(count):
        picture = backgrounds[number % len(backgrounds)].copy()
        face_graphs.paint(picture, 64, 64, face_graphs.shape(2.0), 0, number, zoom)
        Image.fromarray(picture).save(folder / f"{number:03d}.jpg", quality=92)


def _background(seed: int) -> np.ndarray:
    """uint8 [HEIGHT, WIDTH, 3] with little red, which says where a face is."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (9, 12, 3), np.uint8)
    smooth = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    grain = random.normal(0, 6, (HEIGHT, WIDTH, 1)).astype(np.float32)
    picture = np.clip(np.asarray(smooth, np.float32) + grain, 0, 255)
    picture[..., 0] /= 4
    return picture.astype(np.uint8)
