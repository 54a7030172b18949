"""Draws the icon and the banner beside this file out of the demo world's own portraits.

    python -m multi_ipadapter.assets.draw

Four views of one person, each of which hides a part, come together in one portrait.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..demo_world import world
from ..demo_world.portrait.canvas import Jitter

FOLDER = Path(__file__).resolve().parent
ICON, BANNER = (400, 400), (1260, 540)  # pixels; 21:9
SCALE = 2  # drawn larger, for smooth edges

_PERSON = world.HELD_OUT.start + 23
_PORTRAIT = {"expression": "smiling", "background": "sunset", "shirt": "purple"}
_VIEWS = (
    {"pose": "left", "eyewear": "sunglasses", "background": "dots", "shirt": "green"},
    {"hat": "beanie", "hat colour": "blue", "lower face": "scarf", "scarf colour": "yellow"}
    | {"background": "stripes"},
    {"crop": "close", "lower face": "hand", "background": "green"},
    {"pose": "right", "hat": "cap", "hat colour": "red", "lower face": "mask"},
)
_STILL = Jitter(scale=1.0, shift=(0.0, 0.0), tilt=0.0, noise=0.0, blur=0.0, seed=0)
_GROUND, _INK, _SOFT = "#191b2a", "#ffffff", "#a9b0d0"


def portrait(factors: dict[str, str], size: int) -> Image.Image:
    """The person, size x size pixels; factors not named have their first value."""
    options = world.VIEW_FACTORS.items()
    values = tuple(names.index(factors.get(name, names[0])) for name, names in options)
    return world.draw(world.identity(_PERSON), world.View(values, _STILL), size)


def icon() -> Image.Image:
    """The four views in the corners, the portrait over them."""
    side = ICON[0] * SCALE
    gap, tile = side // 50, (side - side // 50) // 2
    picture = Image.new("RGB", (side, side), _GROUND)
    for k, factors in enumerate(_VIEWS):
        place = (k % 2 * (tile + gap), k // 2 * (tile + gap))
        picture.paste(portrait(factors, tile), place)
    _put_round(picture, portrait(_PORTRAIT, side // 2), (side // 2, side // 2), gap)
    return _finish(picture.resize(ICON, Image.Resampling.LANCZOS))


def banner() -> Image.Image:
    """The name, the four views, lines that meet, and the portrait."""
    width, height = (SCALE * side for side in BANNER)
    picture = Image.new("RGB", (width, height), _GROUND)
    tile, gap = height * 3 // 14, height // 36
    top, left = (height - 4 * tile - 3 * gap) // 2, width * 46 // 100
    radius = height * 34 // 100
    centre = (width - radius - height // 10, height // 2)
    lines = ImageDraw.Draw(picture)
    for k, factors in enumerate(_VIEWS):
        y = top + k * (tile + gap)
        lines.line((left + tile, y + tile // 2, *centre), fill=_SOFT, width=height // 90)
        picture.paste(portrait(factors, tile), (left, y))
    _put_round(picture, portrait(_PORTRAIT, 2 * radius), centre, height // 60)
    _write(lines, (height // 9, height * 24 // 100), height)
    return _finish(picture.resize(BANNER, Image.Resampling.LANCZOS))


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], height: int) -> None:
    x, y = place
    for text, size, colour in (
        ("Multi-Image", height // 7, _INK),
        ("IP-Adapter", height // 7, _INK),
        ("one person, many pictures,", height // 16, _SOFT),
        ("any prompt", height // 16, _SOFT),
    ):
        draw.text((x, y), text, fill=colour, font=ImageFont.load_default(size))
        y += size * 5 // 4 + height // 50


def _put_round(canvas: Image.Image, picture: Image.Image, centre, rim: int) -> None:
    """The picture as a disc with a rim."""
    side = picture.width
    mask = Image.new("L", picture.size, 0)
    ImageDraw.Draw(mask).ellipse((0, 0, side - 1, side - 1), fill=255)
    x, y = centre[0] - side // 2, centre[1] - side // 2
    box = (x - rim, y - rim, x + side - 1 + rim, y + side - 1 + rim)
    ImageDraw.Draw(canvas).ellipse(box, fill=_INK)
    canvas.paste(picture, (x, y), mask)


def _finish(picture: Image.Image) -> Image.Image:
    """256 colours: a third of the bytes."""
    return picture.quantize(256, dither=Image.Dither.FLOYDSTEINBERG)


if __name__ == "__main__":
    for _name, _picture in (("icon", icon()), ("banner", banner())):
        _picture.save(FOLDER / f"{_name}.png", optimize=True)
        print(FOLDER / f"{_name}.png", (FOLDER / f"{_name}.png").stat().st_size, "bytes")
