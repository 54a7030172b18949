"""Verdicts on pictures -> a sheet that shows each with its face and what was done."""

from __future__ import annotations

from PIL import Image, ImageDraw

from ...faces.results import THUMBNAIL, THUMBNAILS, Prepared, Verdict
from ...figures.axes import font, shortened
from ...figures.sheets import contact_sheet

_KEPT, _LEFT_OUT = "#009e73", "#d55e00"
_COLUMNS = 6
_BAND = 18  # height of a picture's name, in pixels


def face_sheet(prepared: Prepared) -> Image.Image:
    """All pictures in their order, at most the first `THUMBNAILS`."""
    shown = prepared.verdicts[:THUMBNAILS]
    cells = [_cell(verdict) for verdict in shown]
    captions = [_caption(verdict) for verdict in shown]
    title = f"{len(prepared.indices)} of {len(prepared.verdicts)} pictures kept"
    if len(prepared.verdicts) > len(shown):
        title += f"; the first {len(shown)} are shown"
    starts = range(0, len(shown), _COLUMNS)
    return contact_sheet(
        [cells[s : s + _COLUMNS] for s in starts],
        captions=[captions[s : s + _COLUMNS] for s in starts],
        title=title,
        side=THUMBNAIL + 8,
    )


def _caption(verdict: Verdict) -> str:
    if verdict.place is None or verdict.quality is None:
        return f"{verdict.reason}{verdict.turned}"
    return f"kept as {verdict.place}, quality {verdict.quality.total:.2f}{verdict.turned}"


def _cell(verdict: Verdict) -> Image.Image:
    """The picture, its face and name, in a frame that says whether it is kept."""
    side = THUMBNAIL + 8
    colour = _LEFT_OUT if verdict.place is None else _KEPT
    cell = Image.new("RGB", (side, side), colour)
    draw = ImageDraw.Draw(cell)
    draw.rectangle((3, 3, side - 4, side - 4), fill="#f0f0f0")
    if verdict.thumbnail is not None:
        small = Image.fromarray(verdict.thumbnail)
        if verdict.face is not None:
            box = (verdict.face.box * verdict.scale).tolist()
            if box[2] > box[0] and box[3] > box[1]:
                ImageDraw.Draw(small).rectangle(box, outline=colour, width=2)
        cell.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
    draw.rectangle((3, side - 4 - _BAND, side - 4, side - 4), fill="#202020")
    name = shortened(verdict.name, side - 16, 13)
    draw.text((8, side - 4 - _BAND / 2), name, fill="white", font=font(13), anchor="lm")
    return cell
