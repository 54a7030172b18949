"""The demo's references: photographs inside the package scikit-image, and their credits."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple


class Photograph(NamedTuple):
    """A picture in scikit-image's data folder."""

    file: str
    credit: str


PHOTOGRAPHS = (
    Photograph("astronaut.png", "Eileen Collins, NASA; public domain"),
    Photograph("chelsea.png", "Chelsea the cat, Stefan van der Walt; CC0"),
    Photograph("coffee.png", "Coffee cup, Rachel Michetti, courtesy of Pikolo Espresso Bar; CC0"),
    Photograph("rocket.jpg", "Falcon 9 with DSCOVR, SpaceX; public domain"),
)


def photograph_path(photograph: Photograph) -> Path:
    """Where the picture lies on this machine.

    Raises:
        FileNotFoundError: scikit-image is not installed, or came without the picture.
    """
    spec = importlib.util.find_spec("skimage")  # without importing it
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        path = Path(folder, "data", photograph.file)
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"The photograph {photograph.file} of the package scikit-image is missing (looked in "
        f"{folders or 'no folder'}). Install it with 'pip install scikit-image', or let "
        "'python dev.py demo' set everything up."
    )
