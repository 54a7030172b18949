"""Pictures of a run: loss and validation curves, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]

_COLOURS = ("#9aa0a6", "#1a73e8", "#e8710a", "#188038", "#a142f4")
_MARGIN = 56


def line_chart(
    title: str, curves: Sequence[tuple[str, Sequence[Point]]], size: tuple[int, int] = (960, 480)
) -> Image.Image:
    """Curves of (step, value) with axes and a legend; empty curves are left out."""
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
        colour = _COLOURS[number % len(_COLOURS)]
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
        for i in range(6):
            y = self.y0 + (self.y1 - self.y0) * i / 5
            _, py = self.place((self.x0, y))
            draw.line((self.left, py, self.right, py), fill="#e0e0e0")
            draw.text((4, py - 8), f"{y:.4g}", fill="black", font=font)
            x = self.x0 + (self.x1 - self.x0) * i / 5
            px, _ = self.place((x, self.y0))
            draw.text((px - 14, self.bottom + 8), f"{x:.0f}", fill="black", font=font)

    def place(self, point: Point) -> Point:
        x = (point[0] - self.x0) / (self.x1 - self.x0)
        y = (point[1] - self.y0) / (self.y1 - self.y0)
        return (
            self.left + x * (self.right - self.left),
            self.bottom - y * (self.bottom - self.top),
        )


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
