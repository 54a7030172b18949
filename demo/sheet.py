"""Last step of the demo: references and results on one labelled sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont, ImageOps

_TILE = 256
_GAP = 12
_LINE = 20
_INK = "#202020"


class Labelled(NamedTuple):
    """A picture and the line under it."""

    picture: Image.Image
    label: str


def contact_sheet(
    references: Sequence[Labelled], results: Sequence[Labelled], notes: Sequence[str]
) -> Image.Image:
    """References, two in a row, on the left; results on the right; notes below."""
    rows = (len(references) + 1) // 2
    small = (_TILE - (rows - 1) * (_LINE + _GAP)) // rows
    left = 2 * small + _GAP
    width = 2 * _GAP + left + len(results) * (_TILE + 2 * _GAP)
    top = _GAP + _LINE
    height = top + _TILE + _LINE + 2 * _GAP + len(notes) * _LINE
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), "References", fill=_INK, font=_font(15))
    draw.text((3 * _GAP + left, _GAP), "Same noise, same prompt", fill=_INK, font=_font(15))
    for i, reference in enumerate(references):
        place = (
            _GAP + (i % 2) * (small + _GAP),
            top + _GAP // 2 + (i // 2) * (small + _LINE + _GAP),
        )
        _put(sheet, reference, place, small)
    for i, result in enumerate(results):
        _put(sheet, result, (3 * _GAP + left + i * (_TILE + 2 * _GAP), top + _GAP // 2), _TILE)
    for i, note in enumerate(notes):
        draw.text((_GAP, height - _GAP - (len(notes) - i) * _LINE), note, fill=_INK, font=_font(13))
    return sheet


def _put(sheet: Image.Image, labelled: Labelled, place: tuple[int, int], side: int) -> None:
    """A square with its label underneath; what is not square loses its edges, as when encoding."""
    sheet.paste(ImageOps.fit(labelled.picture.convert("RGB"), (side, side)), place)
    below = (place[0], place[1] + side + 3)
    ImageDraw.Draw(sheet).text(below, labelled.label, fill=_INK, font=_font(13))


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font."""
    return ImageFont.load_default(size)
