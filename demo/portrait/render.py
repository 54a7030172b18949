"""The order of the layers: a portrait from an identity's and a view's values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from .canvas import SUPERSAMPLING, Canvas, Jitter, Sitter, Traits, warmer
from .colours import BACKGROUNDS, FRINGES, HAIR, LIGHTS, SKIN
from .eyes import brows, eyes, glasses, goggles, sunglasses
from .hair import hair_behind, hair_in_front
from .head import beard, body, cheeks, earrings, ears, face, marks, mouth, nose
from .worn import hat, hat_behind, lower_face


def background(canvas: Canvas, name: str) -> None:
    """Fills the whole canvas."""
    top, bottom = (np.array(color, dtype=np.float64) for color in BACKGROUNDS[name])
    n = canvas.pixels
    share = (np.arange(n) / n)[:, None]
    column = np.rint(top + (bottom - top) * share).astype(np.uint8)[:, None, :]
    canvas.image.paste(Image.fromarray(column).resize((n, n), Image.Resampling.NEAREST))
    if name == "stripes":
        for k in range(-4, 5, 2):
            x = n * k // 8
            canvas.pen.polygon(
                (x + n // 2, 0, x + n * 5 // 8, 0, x + n * 3 // 8, n, x + n // 4, n),
                fill=(226, 148, 120),
            )
    if name == "dots":
        radius = n // 22
        for row in range(7):
            for column_index in range(6):
                x = n * (2 * column_index + row % 2) // 11
                y = n * row // 6
                canvas.pen.ellipse(
                    (x - radius, y - radius, x + radius, y + radius), fill=(90, 158, 168)
                )


def finish(image: Image.Image, light: str, jitter: Jitter) -> Image.Image:
    """Reduces to the final size, then light, blur and noise (float32 arithmetic)."""
    pixels = np.asarray(image.reduce(SUPERSAMPLING), dtype=np.float32)
    size = len(pixels)
    if jitter.blur:
        weight = np.float32(jitter.blur)
        for axis in (0, 1):
            wide = np.concatenate(
                (pixels.take([0], axis), pixels, pixels.take([size - 1], axis)), axis=axis
            )
            before, after = np.arange(size), np.arange(size) + 2
            sides = wide.take(before, axis) + wide.take(after, axis)
            pixels = pixels * (1 - 2 * weight) + sides * weight
    pixels = pixels * np.array(LIGHTS[light], dtype=np.float32)
    if light == "shadow":
        across = np.arange(size, dtype=np.float32) / np.float32(size)
        pixels = pixels * (1 - np.float32(0.55) * ((across - 0.42) * 3.5).clip(0, 1))[None, :, None]
    generator = np.random.Generator(np.random.PCG64(jitter.seed))
    grain = generator.integers(0, 256, (2, size, size, 1), dtype=np.uint8).astype(np.float32)
    pixels = pixels + (grain[0] - grain[1]) * np.float32(jitter.noise / 104)
    return Image.fromarray((pixels + np.float32(0.5)).clip(0, 255).astype(np.uint8))


def render(
    look: Mapping[str, str],
    traits: Traits,
    scene: Mapping[str, str],
    jitter: Jitter,
    size: int = 128,
) -> Image.Image:
    """Draws a portrait.

    Args:
        look: identity attribute -> value.
        traits: the identity's small continuous traits.
        scene: view factor -> value.
        jitter: unnamed variation of the view.
        size: pixels of each side.

    Returns:
        An RGB picture, size x size.
    """
    turn = {"left": -1, "ahead": 0, "right": 1}[scene["pose"]]
    who = Sitter(
        look=look,
        scene=scene,
        traits=traits,
        skin=warmer(SKIN[look["skin"]], traits.skin_hue),
        hair=warmer(HAIR[look["hair colour"]], traits.hair_hue),
        turn=turn,
    )
    canvas = _canvas(scene["crop"] == "close", turn, jitter, size)
    _paint(canvas, who)
    return finish(canvas.image, scene["light"], jitter)


def _canvas(close: bool, turn: int, jitter: Jitter, size: int) -> Canvas:
    """Empty, framed for a portrait or a close-up."""
    scale = jitter.scale * (2.12 if close else 1.0)
    right, down = jitter.shift
    center = (0.5 + right, 0.47 + down)
    if close:  # on the features: hair, ears and neck are out of the frame
        center = (0.5 - 0.03 * scale * turn + right / 3, 0.5 - 0.08 * scale + down / 3)
    return Canvas(size, scale, center, jitter.tilt)


def _paint(canvas: Canvas, who: Sitter) -> None:
    """All layers, from the background to what is worn in front of the face."""
    look, scene = who.look, who.scene
    close = scene["crop"] == "close"
    headgear = scene["hat"]
    # In a close-up hair is out of the frame, or brushed out of it, but for a deep fringe.
    cut = close and look["hairstyle"] not in FRINGES
    tucked = headgear in ("beanie", "hood") or cut
    background(canvas, scene["background"])
    hat_behind(canvas, who)
    if not tucked and not close and not (headgear == "cap" and look["hairstyle"] == "bun"):
        hair_behind(canvas, who)
    body(canvas, who)
    if headgear not in ("hood", "headphones"):
        ears(canvas, who)
    face(canvas, who)
    cheeks(canvas, who)
    marks(canvas, who)
    if not (headgear == "hood" and scene["lower face"] in ("hand", "cup")):  # a sliver at most
        beard(canvas, who)
    mouth(canvas, who)
    hidden_eyes = scene["eyewear"] != "none"
    if not hidden_eyes:
        eyes(canvas, who)
    if not tucked and headgear != "cap":
        hair_in_front(canvas, who)
    if headgear not in ("cap", "beanie") and scene["eyewear"] != "goggles":
        brows(canvas, who)
    nose(canvas, who)
    if headgear not in ("hood", "headphones"):
        earrings(canvas, who)
    if headgear != "headphones":
        hat(canvas, who)
    if scene["eyewear"] == "sunglasses":
        sunglasses(canvas, who)
    elif scene["eyewear"] == "goggles":
        goggles(canvas, who)
    else:
        glasses(canvas, who)
    if headgear == "headphones":
        hat(canvas, who)
    lower_face(canvas, who)
