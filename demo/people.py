"""The demo's person: portraits of somebody whom the demo models have never seen."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from . import world

WANTED = 8  # the first view that may be drawn; the ones before it serve as references


class Portrait(NamedTuple):
    """A drawn picture, and what it does not show.

    Attributes:
        picture: RGB.
        caption: of the view, not of the person.
        hidden: names of the person's attributes that this view hides.
    """

    picture: Image.Image
    caption: str
    hidden: tuple[str, ...]


def portrait(identity: int, view: int) -> Portrait:
    """View `view` of the held-out person `identity`, 0 <= identity < 100,000."""
    who = world.identity(world.HELD_OUT.start + identity)
    scene = world.view(who.index, view)
    shown = zip(world.ATTRIBUTES, world.visible(who, scene), strict=True)
    hidden = tuple(name for name, visible in shown if not visible)
    return Portrait(world.draw(who, scene), world.caption(scene), hidden)


def clear_view(identity: int) -> int:
    """The first view from `WANTED` on, no close-up, that hides as little as a view can."""
    who = world.identity(world.HELD_OUT.start + identity)
    most = len(world.ATTRIBUTES) - math.ceil(world.LEAST_HIDDEN * len(world.ATTRIBUTES))
    return next(
        number
        for number in itertools.count(WANTED)
        if (scene := world.view(who.index, number)).factors["crop"] == "wide"
        and sum(world.visible(who, scene)) >= most
    )


def write_references(folder: Path, identity: int, count: int) -> list[Path]:
    """Write the first views of a person as pictures; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"reference_{k}.png" for k in range(count)]
    for k, path in enumerate(paths):
        portrait(identity, k).picture.save(path)
    return paths
