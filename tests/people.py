"""A folder of identities, each of a colour of its own, for the tests of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Enough to see a run from end to end in seconds.
_SETTINGS = {
    "projection": "linear",
    "num_tokens": 4,
    "warmup": 2,
    "log_every": 1,
    "checkpoint_every": 0,
    "validate_every": 0,
    "held_out": 0.3,
}
SMALL = {"batch_size": 2, "learning_rate": 1e-3, "size": 64, "precision": "fp32"}


def settings_with(**changes: Any) -> str:
    """Text for the node's field or the command line's file; None leaves a setting out."""
    values = {k: v for k, v in (_SETTINGS | changes).items() if v is not None}
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def write_people(folder: Path, identities: int = 8, pictures: int = 4) -> Path:
    """`folder`/p<i>/<j>.png with a caption for each."""
    random = np.random.default_rng(0)
    for i in range(identities):
        person = folder / f"p{i:02}"
        person.mkdir(parents=True)
        colour = random.integers(0, 256, 3)
        for j in range(pictures):
            noise = random.normal(0, 20, (72, 64, 3))
            pixels = np.clip(colour + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(person / f"{j}.png")
            (person / f"{j}.txt").write_text(f"a portrait, view {j}")
    return folder
