"""The frame of a figure: axes with round numbers, title and legend, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from .line_chart import round_ticks

# Told apart in every common form of colour blindness (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
INK, _GRID = "#202020", "#e0e0e0"
_ROW = 20  # height of a line of text
_DASH = 10  # a dash and the gap after it


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that Pillow brings along."""
    return ImageFont.load_default(size)


def shortened(text: str, width: float, size: int) -> str:
    """A text on one line of at most so many pixels."""
    text = " ".join(text.split())
    face = font(size)
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text.rstrip()}..."


def number(value: float) -> str:
    """Short, for labels."""
    return f"{value:.4g}"


def shown(value: object) -> str:
    """A condition's value, for labels."""
    return number(value) if isinstance(value, float) else str(value)


class Drawn(NamedTuple):
    """What the legend tells of a curve."""

    name: str
    colour: str
    dashed: bool = False


class Axes:
    """A frame with axes, onto which points are placed.

    Args:
        xs, ys: all values that must fit.
        legend: of what is drawn.
    """

    def __init__(
        self,
        title: str,
        x_name: str,
        y_name: str,
        xs: Sequence[float],
        ys: Sequence[float],
        legend: Sequence[Drawn] = (),
        size: tuple[int, int] = (960, 600),
    ):
        self.image = Image.new("RGB", size, "white")
        self.draw = ImageDraw.Draw(self.image)
        measured = sorted(set(xs))
        apart = min((b - a for a, b in pairwise(measured)), default=1.0)
        readable = apart >= (measured[-1] - measured[0]) / 16
        self._x_ticks = measured if readable else _ticks(xs)
        self._y_ticks = _ticks(ys)
        widest = max(font(14).getlength(number(y)) for y in self._y_ticks)
        legend = [each._replace(name=shortened(each.name, 220, 14)) for each in legend]
        beside = max((font(14).getlength(each.name) for each in legend), default=-50) + 74
        self.left, self.right = round(widest) + 28, size[0] - round(beside)
        self.top, self.bottom = 74, size[1] - 64
        self.x_range = _range(xs, self._x_ticks, margin=0.03)
        self.y_range = _range(ys, self._y_ticks, margin=0.05)
        self._frame(title, x_name, y_name)
        self._legend(legend)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """A point in pixels."""
        (x0, x1), (y0, y1) = self.x_range, self.y_range
        return (
            self.left + (x - x0) / (x1 - x0) * (self.right - self.left),
            self.bottom - (y - y0) / (y1 - y0) * (self.bottom - self.top),
        )

    def band(
        self, points: Sequence[tuple[float, float, float]], colour: str, filled: bool = True
    ) -> None:
        """Bars from low to high, and the area between them; points are (x, low, high)."""
        above = [self.place(x, high) for x, _, high in points]
        below = [self.place(x, low) for x, low, _ in reversed(points)]
        layer = Image.new("RGBA", self.image.size)
        draw = ImageDraw.Draw(layer)
        if filled and len(points) > 1:
            draw.polygon(above + below, fill=f"{colour}30")
        for (x, high), (_, low) in zip(above, reversed(below), strict=True):
            draw.line((x, high, x, low), fill=f"{colour}90", width=2)
        self.image.paste(layer, mask=layer)

    def line(
        self, points: Sequence[tuple[float, float]], colour: str, dashed: bool = False
    ) -> None:
        """Points joined by lines."""
        placed = [self.place(*point) for point in points]
        if dashed:
            for start, end in pairwise(placed):
                self._dashes(start, end, colour)
        elif len(placed) > 1:
            self.draw.line(placed, fill=colour, width=3, joint="curve")
        for x, y in placed:
            self.dot(x, y, colour)

    def level(self, y: float, colour: str) -> None:
        """A dashed line across all x."""
        _, py = self.place(self.x_range[0], y)
        self._dashes((self.left, py), (self.right, py), colour)

    def dot(self, x: float, y: float, colour: str) -> None:
        """A point, in pixels."""
        self.draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=colour, outline="white")

    def _dashes(
        self, start: tuple[float, float], end: tuple[float, float], colour: str, width: int = 3
    ) -> None:
        long = math.dist(start, end)
        if not long:
            return
        (x0, y0), (x1, y1) = start, end
        for begin in range(0, math.ceil(long), _DASH):
            a, b = begin / long, min((begin + _DASH / 2) / long, 1.0)
            ends = [(x0 + t * (x1 - x0), y0 + t * (y1 - y0)) for t in (a, b)]
            self.draw.line(ends, fill=colour, width=width)

    def _frame(self, title: str, x_name: str, y_name: str) -> None:
        draw, small = self.draw, font(14)
        heading = shortened(title, self.image.width - 40, 20)
        draw.text((20, 14), heading, fill=INK, font=font(20))
        draw.text((20, 44), shortened(y_name, self.right, 14), fill="#606060", font=small)
        for y in self._y_ticks:
            _, py = self.place(self.x_range[0], y)
            draw.line((self.left, py, self.right, py), fill=_GRID)
            draw.text((self.left - 8, py), number(y), fill=INK, font=small, anchor="rm")
        for x in self._x_ticks:
            px, _ = self.place(x, self.y_range[0])
            draw.line((px, self.bottom, px, self.bottom + 5), fill=INK)
            draw.text((px, self.bottom + 9), number(x), fill=INK, font=small, anchor="mt")
        draw.line((self.left, self.bottom, self.right, self.bottom), fill=INK)
        middle = (self.left + self.right) / 2
        draw.text((middle, self.bottom + 34), x_name, fill=INK, font=small, anchor="mt")

    def _legend(self, legend: Sequence[Drawn]) -> None:
        for row, (name, colour, dashed) in enumerate(legend):
            y = self.top + row * _ROW
            if y + _ROW > self.bottom:
                break
            x = self.right + 20
            if dashed:
                self._dashes((x, y + 8), (x + 24, y + 8), colour, width=4)
            else:
                self.draw.line((x, y + 8, x + 24, y + 8), fill=colour, width=4)
            self.draw.text((x + 32, y), name, fill=INK, font=font(14))


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers across the values."""
    low, high = min(values), max(values)
    return [low] if low == high else round_ticks(low, high)


def _range(values: Sequence[float], ticks: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(*values, *ticks), max(*values, *ticks)
    if low == high:
        return low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    return low - margin * (high - low), high + margin * (high - low)
