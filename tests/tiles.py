"""The ground of a template's thumbnail: its title, and the tiles, arrows and labels put on it."""

from __future__ import annotations

import math
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont, ImageOps

SIZE = (640, 360)
SCALE = 2  # drawn larger, for smooth edges
INK = "#ffffff"
_TITLE, _EDGE = 62, 24  # the browser shows 256 of the 640 pixels


class Theme(NamedTuple):
    """Colours of what a group of templates does."""

    ground: str
    accent: str


DRAWING = Theme("#1e2542", "#8fb4ff")
PORTRAITS = Theme("#38233f", "#f0a6e0")
TRAINING = Theme("#16372f", "#6fdcae")
MEASURING = Theme("#40301a", "#ffc46b")
Point = tuple[float, float]


class Card:
    """A thumbnail in the making; all places and lengths in pixels of the finished one."""

    def __init__(self, title: str, theme: Theme):
        self.theme = theme
        self._image = Image.new("RGB", tuple(SCALE * side for side in SIZE), theme.ground)
        self._draw = ImageDraw.Draw(self._image)
        self._draw.rectangle(self._box(0, 0, 10, SIZE[1]), fill=theme.accent)
        self._text((_EDGE, 52), title, _TITLE, INK, "lm", stroke=1)

    def tag(self, text: str) -> None:
        """A short remark at the right of the title."""
        self._text((SIZE[0] - _EDGE, 58), text, 34, self.theme.accent, "rm")

    def label(self, place: Point, text: str, anchor: str = "mm", size: int = 30) -> None:
        """A few characters."""
        self._text(place, text, size, INK, anchor)

    def tile(
        self,
        picture: Image.Image,
        place: Point,
        width: float,
        height: float = 0,
        *,
        rim: float = 0,
        shade: float = 0,
    ) -> None:
        """A picture's middle with round corners and a rim; the ground covers it by `shade`."""
        height = height or width
        x, y = place
        if rim:
            outer = self._box(x - rim, y - rim, width + 2 * rim, height + 2 * rim)
            self._draw.rounded_rectangle(outer, SCALE * (8 + rim), fill=INK)
        size = (round(SCALE * width), round(SCALE * height))
        mask = Image.new("L", size, 0)
        box = (0, 0, size[0] - 1, size[1] - 1)
        ImageDraw.Draw(mask).rounded_rectangle(box, SCALE * 8, fill=255)
        shown = ImageOps.fit(picture.convert("RGB"), size, Image.Resampling.LANCZOS)
        shown = Image.blend(shown, Image.new("RGB", size, self.theme.ground), shade)
        self._image.paste(shown, (round(SCALE * x), round(SCALE * y)), mask)

    def frame(self, place: Point, width: float, height: float, colour: str) -> None:
        """An empty rectangle, as around a face that was found."""
        box = self._box(*place, width, height)
        self._draw.rounded_rectangle(box, SCALE * 4, outline=colour, width=SCALE * 4)

    def bar(self, place: Point, width: float, height: float, colour: str) -> None:
        """A filled rectangle."""
        self._draw.rounded_rectangle(self._box(*place, width, height), SCALE * 4, fill=colour)

    def arrow(self, start: Point, end: Point) -> None:
        """A thick arrow."""
        angle = math.atan2(end[1] - start[1], end[0] - start[0])
        tip, wide = 24, 20
        back = (end[0] - tip * math.cos(angle), end[1] - tip * math.sin(angle))
        self.line(start, back, 10)
        across = (wide * math.sin(angle), -wide * math.cos(angle))
        corners = [end]
        corners += [(back[0] + sign * across[0], back[1] + sign * across[1]) for sign in (1, -1)]
        self._draw.polygon([self._at(corner) for corner in corners], fill=self.theme.accent)

    def line(self, start: Point, end: Point, width: float = 6, colour: str = "") -> None:
        """A straight line."""
        ends = [self._at(start), self._at(end)]
        self._draw.line(ends, fill=colour or self.theme.accent, width=round(SCALE * width))

    def curve(self, points: list[Point], width: float, colour: str) -> None:
        """Points joined by lines."""
        placed = [self._at(point) for point in points]
        self._draw.line(placed, fill=colour, width=round(SCALE * width), joint="curve")

    def disc(self, centre: Point, radius: float, colour: str) -> None:
        """A filled circle."""
        x, y = centre
        self._draw.ellipse(self._box(x - radius, y - radius, 2 * radius, 2 * radius), fill=colour)

    def badge(self, centre: Point, text: str) -> None:
        """A character on a disc."""
        self.disc(centre, 24, self.theme.accent)
        self._text(centre, text, 32, self.theme.ground, "mm", stroke=1)

    def finish(self) -> Image.Image:
        """At its size."""
        return self._image.resize(SIZE, Image.Resampling.LANCZOS)

    def _text(
        self, place: Point, text: str, size: int, colour: str, anchor: str, stroke: int = 0
    ) -> None:
        font = ImageFont.load_default(SCALE * size)
        told = {"font": font, "anchor": anchor, "fill": colour, "stroke_width": SCALE * stroke}
        self._draw.text(self._at(place), text, **told)

    def _at(self, point: Point) -> Point:
        return SCALE * point[0], SCALE * point[1]

    def _box(self, x: float, y: float, width: float, height: float) -> tuple:
        return SCALE * x, SCALE * y, SCALE * (x + width) - 1, SCALE * (y + height) - 1
