"""Pictures of a run: loss and validation curves, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]

# As in the live chart on the node (js/widgets.js, light).
_COLOURS = {"matched": "#12804a", "none": "#b35c00", "shuffled": "#a024b8", "smoothed": "#1667c9"}
_OTHER = "#9aa0a6"
_MARGIN = 56


def line_chart(
    title: str, curves: Sequence[tuple[str, Sequence[Point]]], size: tuple[int, int] = (960, 480)
) -> Image.Image:
    """Curves of (step, value) with axes and a legend; empty curves are left out.

    The last word of a curve's name decides its colour.
    """
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(14)
    draw.text((_MARGIN, 10), title, fill="black", font=ImageFont.load_default(18))
    curves = [(name, list(points)) for name, points in curves if points]
    if not curves:
        draw.text((_MARGIN, size[1] // 2), "no data yet", fill="black", font=font)
        return image
    top = 30 + 18 * len(curves)  # below the legend
    place = _Axes(draw, size, top, [p for _, points in curves for p in points], font).place
    for number, (name, points) in enumerate(curves):
        colour = _COLOURS.get(name.split()[-1], _OTHER)
        placed = [place(p) for p in points]
        if len(placed) > 1:
            draw.line(placed, fill=colour, width=2, joint="curve")
        for x, y in placed if len(placed) < 60 else []:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
        left = size[0] - 200
        draw.line((left, 20 + 18 * number, left + 24, 20 + 18 * number), fill=colour, width=3)
        draw.text((left + 32, 12 + 18 * number), name, fill="black", font=font)
    return image


class _Axes:
    def __init__(self, draw: ImageDraw.ImageDraw, size: tuple[int, int], top: int, points, font):
        self.left, self.right = _MARGIN, size[0] - 20
        self.top, self.bottom = top, size[1] - 40
        self.x0, self.x1 = _spread([x for x, _ in points], margin=0.0)
        self.y0, self.y1 = _spread([y for _, y in points])
        for y in round_ticks(self.y0, self.y1):
            _, py = self.place((self.x0, y))
            draw.line((self.left, py, self.right, py), fill="#e0e0e0")
            draw.text((4, py - 8), f"{y:.4g}", fill="black", font=font)
        for x in round_ticks(self.x0, self.x1):
            px, _ = self.place((x, self.y0))
            draw.text((px, self.bottom + 8), f"{x:g}", fill="black", font=font, anchor="mt")

    def place(self, point: Point) -> Point:
        x = (point[0] - self.x0) / (self.x1 - self.x0)
        y = (point[1] - self.y0) / (self.y1 - self.y0)
        return (
            self.left + x * (self.right - self.left),
            self.bottom - y * (self.bottom - self.top),
        )


def round_ticks(low: float, high: float) -> list[float]:
    """About five round numbers from low to high."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(m for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _spread(values: Sequence[float], margin: float = 0.05) -> tuple[float, float]:
    """Range of an axis; not empty for a single value either."""
    low, high = min(values), max(values)
    if low == high:
        margin, high = 0.0, low + (abs(low) or 1.0)
    pad = margin * (high - low)
    return low - pad, high + pad


def smoothed(points: Sequence[Point], share: float = 0.02) -> list[Point]:
    """Exponential mean over about `share` of the points, but no fewer than five."""
    weight = 1 - 1 / max(5.0, share * len(points))
    total, out = None, []
    for x, y in points:
        total = y if total is None else weight * total + (1 - weight) * y
        out.append((x, total))
    return out
