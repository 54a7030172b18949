"""Pictures side by side: in rows and columns, or ranked, each with a line of text."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageOps

from .axes import INK, font, number, shortened

_EMPTY = "#f0f0f0"
_GAP = 6
_LABEL = 22  # height of a line of text below or above a picture


def contact_sheet(
    cells: Sequence[Sequence[Image.Image | None]],
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    title: str = "",
    side: int = 192,
) -> Image.Image:
    """Pictures in rows and columns, each with a line below it.

    Args:
        cells: None leaves a place empty.
        captions: of the same shape as `cells`.
        side: of the square that a picture fits into, in pixels.
    """
    columns = max(len(row) for row in cells)
    wide = max((font(14).getlength(name) for name in row_names), default=0)
    left = min(round(wide), 260) + 2 * _GAP if row_names else _GAP
    top = _GAP + (34 if title else 0) + (_LABEL if column_names else 0)
    below = _LABEL if captions else 0
    step_x, step_y = side + _GAP, side + below + _GAP
    width = max(left + columns * step_x, min(960, round(font(20).getlength(title)) + 24))
    sheet = Image.new("RGB", (width, top + len(cells) * step_y), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP * 2, 8), shortened(title, width - 24, 20), fill=INK, font=font(20))
    for column, name in enumerate(column_names):
        x = left + column * step_x + side / 2
        text = shortened(name, side, 14)
        draw.text((x, top - _GAP), text, fill=INK, font=font(14), anchor="mb")
    for row, pictures in enumerate(cells):
        y = top + row * step_y
        if row_names:
            text = shortened(row_names[row], 260, 14)
            draw.text((left - _GAP, y + side / 2), text, fill=INK, font=font(14), anchor="rm")
        for column, picture in enumerate(pictures):
            _paste(sheet, draw, picture, left + column * step_x, y, side)
            if captions:
                text = shortened(captions[row][column], side, 14)
                place = (left + column * step_x + side / 2, y + side + 4)
                draw.text(place, text, fill=INK, font=font(14), anchor="mt")
    return sheet


def ranked_strip(
    pictures: Sequence[Image.Image],
    scores: Sequence[float | None],
    names: Sequence[str] = (),
    title: str = "",
    columns: int = 8,
    side: int = 192,
) -> Image.Image:
    """Pictures with their place and score, in the order given; broken into rows."""
    captions = []
    for place, score in enumerate(scores):
        text = "no score" if score is None else number(score)
        captions.append(", ".join([f"#{place + 1}", text, *names[place : place + 1]]))
    starts = range(0, len(pictures), columns)
    return contact_sheet(
        [list(pictures[s : s + columns]) for s in starts],
        captions=[captions[s : s + columns] for s in starts],
        title=title,
        side=side,
    )


def _paste(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    picture: Image.Image | None,
    x: int,
    y: int,
    side: int,
) -> None:
    if picture is None:
        draw.rectangle((x, y, x + side - 1, y + side - 1), fill=_EMPTY)
        return
    small = ImageOps.contain(picture.convert("RGB"), (side, side), Image.Resampling.BICUBIC)
    sheet.paste(small, (x + (side - small.width) // 2, y + (side - small.height) // 2))
