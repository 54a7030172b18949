"""Cuts the first people out of the cells' sheets and puts the conditions side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw

from ...figures.axes import INK, font
from .cells import BASE, MAIN, RIVAL, SWEPT, Cell, without
from .people import PROMPTS

PEOPLE, SEED = 6, 1  # of a sheet's people and views
_HEAD = 44
_DRAWN = {
    "no reference": without(BASE),
    f"N = 1\n{MAIN[0]}": Cell(*MAIN, 1, 1.0),
    f"N = {SWEPT}\n{MAIN[0]}": Cell(*MAIN, SWEPT, 1.0),
    f"N = {SWEPT}\n{', '.join(RIVAL)}": Cell(*RIVAL, SWEPT, 1.0),
}


def side_by_side(sheet: Callable[[Cell], Path]) -> Image.Image:
    """References, what each condition drew, and the real picture, a line for each person.

    Args:
        sheet: where a cell's sheet is, as `run.write_sheet` lays it out.
    """
    main = Image.open(sheet(_DRAWN[f"N = {SWEPT}\n{MAIN[0]}"]))
    drawn = {name: (Image.open(sheet(cell)), _column(cell)) for name, cell in _DRAWN.items()}
    columns = [("references", (main, 0)), *(("", (main, k)) for k in range(1, SWEPT))]
    columns += [*drawn.items(), ("real picture", (main, SWEPT + 2 * SEED + 1))]
    size = main.width // (SWEPT + 2 * PROMPTS)
    whole = Image.new("RGB", (len(columns) * size, _HEAD + PEOPLE * size), "white")
    draw = ImageDraw.Draw(whole)
    for place, (name, (source, column)) in enumerate(columns):
        box = (column * size, 0, (column + 1) * size, PEOPLE * size)
        whole.paste(source.crop(box), (place * size, _HEAD))
        draw.text((place * size + 4, 4), name, fill=INK, font=font(14))
    return whole


def _column(cell: Cell) -> int:
    return cell.references + 2 * SEED
