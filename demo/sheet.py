"""Last step of the demo: references and results on one labelled sheet."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

_TILE, _SMALL = 384, 176  # three pixels for each of a drawn picture
_GAP, _LINE = 16, 18
_INK, _GREY = "#202020", "#707070"


class Shown(NamedTuple):
    """A picture and the lines under it."""

    picture: Image.Image
    label: str


def demo_sheet(
    references: Sequence[Shown], results: Sequence[Shown], prompt: str, about: str
) -> Image.Image:
    """References, two in a row, on the left; results on the right."""
    block = _SMALL + 4 * _LINE
    left = 2 * (_SMALL + _GAP)
    top = 3 * _LINE + _GAP
    height = top + 2 * _LINE + max(_TILE + 4 * _LINE, 2 * block)
    width = _GAP + left + _GAP + len(results) * (_TILE + _GAP)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP // 2), about, fill=_GREY, font=_font(14))
    draw.text((_GAP, _GAP + _LINE), "References", fill=_INK, font=_font(17))
    right = _GAP + left + _GAP
    draw.text((right, _GAP + _LINE), "Same noise, same prompt:", fill=_INK, font=_font(17))
    said = "\n".join(textwrap.wrap(f'"{prompt}"', 140))
    draw.text((right, _GAP + 2 * _LINE + 4), said, fill=_GREY, font=_font(14))
    ends = []
    for i, shown in enumerate(references):
        place = (_GAP + (i % 2) * (_SMALL + _GAP), top + (i // 2) * block)
        ends.append(_put(sheet, shown, place, _SMALL, 11, 34))
    for i, shown in enumerate(results):
        place = (right + i * (_TILE + _GAP), top + 2 * _LINE)
        ends.append(_put(sheet, shown, place, _TILE, 16, 60))
    return sheet.crop((0, 0, width, min(max(ends) + _GAP, height)))


def _put(
    sheet: Image.Image, shown: Shown, place: tuple[int, int], side: int, size: int, width: int
) -> int:
    """A square with its label underneath; returns where that ends."""
    sheet.paste(shown.picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), place)
    lines = [line for part in shown.label.split("\n") for line in textwrap.wrap(part, width)]
    text = "\n".join(lines)
    draw, start = ImageDraw.Draw(sheet), (place[0], place[1] + side + 4)
    draw.text(start, text, fill=_INK, font=_font(size), spacing=3)
    return math.ceil(draw.textbbox(start, text, font=_font(size), spacing=3)[3])


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font."""
    return ImageFont.load_default(size)
