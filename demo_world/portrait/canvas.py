"""What a portrait is drawn on and with: a canvas, polygons, curves, and the sitter.

Face coordinates: x to the right, y down, the frame is 1 high and wide in a wide shot and the
origin lies between the eyes. All shapes become polygons with whole pixel corners on a canvas
three times too large, so the same picture comes out on every platform.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .colours import JAWS, Color

Points = np.ndarray  # (n, 2) float64, face coordinates


SUPERSAMPLING = 3


ANGLES = np.arange(40) * (2 * np.pi / 40)


CIRCLE = np.stack((np.cos(ANGLES), np.sin(ANGLES)), axis=1).round(6)  # rounded: alike everywhere


STEPS = np.arange(6)[:, None] / 6


SPLINE = np.concatenate(  # (6, 4) Catmull-Rom weights of four neighbours
    (
        0.5 * (-STEPS + 2 * STEPS**2 - STEPS**3),
        0.5 * (2 - 5 * STEPS**2 + 3 * STEPS**3),
        0.5 * (STEPS + 4 * STEPS**2 - 3 * STEPS**3),
        0.5 * (STEPS**3 - STEPS**2),
    ),
    axis=1,
)


@dataclass(frozen=True)
class Traits:
    """Continuous traits of an identity, each in [-1, 1] and small in effect."""

    width: float
    spacing: float
    eyes: float
    nose: float
    mouth: float
    skin_hue: float
    hair_hue: float


@dataclass(frozen=True)
class Jitter:
    """Unnamed variation of a view.

    scale is a factor; shift is in frame heights; tilt is the tangent of half the angle; noise is
    in grey levels; blur in [0, 0.2] is the weight of each neighbouring pixel; seed is the noise's.
    """

    scale: float
    shift: tuple[float, float]
    tilt: float
    noise: float
    blur: float
    seed: int


def shade(color: Color, amount: float) -> Color:
    """Returns the colour darker (amount < 0) or lighter (amount > 0) by that share."""
    if amount < 0:
        red, green, blue = (round(c * (1 + amount)) for c in color)
    else:
        red, green, blue = (round(c + (255 - c) * amount) for c in color)
    return red, green, blue


def mix(first: Color, second: Color, share: float) -> Color:
    """Returns the colour that share of the way from the first to the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def warmer(color: Color, amount: float) -> Color:
    """Returns the colour turned a little to red (amount > 0) or to green (amount < 0)."""
    red, green, blue = color
    return (
        min(255, max(0, round(red + 5 * amount))),
        min(255, max(0, round(green - 5 * amount))),
        min(255, max(0, round(blue + 2 * amount))),
    )


def spline(points: object, closed: bool = True) -> Points:
    """Returns a smooth curve through the points: (n, 2) -> (6n, 2), open ones (6(n-1)+1, 2)."""
    p = np.asarray(points, dtype=np.float64)
    if closed:
        around = np.stack((np.roll(p, 1, 0), p, np.roll(p, -1, 0), np.roll(p, -2, 0)), axis=1)
        return np.einsum("sk,nkd->nsd", SPLINE, around).reshape(-1, 2)
    long = np.concatenate((p[:1], p, p[-1:]))
    around = np.stack((long[:-3], long[1:-2], long[2:-1], long[3:]), axis=1)
    return np.concatenate((np.einsum("sk,nkd->nsd", SPLINE, around).reshape(-1, 2), p[-1:]))


def mirrored(points: object) -> Points:
    """Returns the points flipped left to right, in reverse order."""
    return (np.asarray(points, dtype=np.float64) * (-1, 1))[::-1]


def both(right: object) -> Points:
    """Returns the outline whose right half is given from top to bottom."""
    p = np.asarray(right, dtype=np.float64)
    return np.concatenate((p, mirrored(p[p[:, 0] > 0])))


def ellipse(x: float, y: float, rx: float, ry: float) -> Points:
    """Returns an ellipse as a polygon (40, 2)."""
    return CIRCLE * (rx, ry) + (x, y)


class Canvas:
    """A picture three times too large, drawn on in face coordinates."""

    def __init__(self, size: int, scale: float, center: tuple[float, float], tilt: float) -> None:
        """center: where the origin lies, in frame heights from the top left."""
        self.pixels = size * SUPERSAMPLING
        self.image = Image.new("RGB", (self.pixels, self.pixels))
        self.pen = ImageDraw.Draw(self.image, "RGBA")
        cosine = (1 - tilt * tilt) / (1 + tilt * tilt)
        sine = 2 * tilt / (1 + tilt * tilt)
        factor = scale * self.pixels
        self.columns = ((cosine * factor, -sine * factor), (sine * factor, cosine * factor))
        self.center = (center[0] * self.pixels, center[1] * self.pixels)

    def fill(self, points: Points, color: Color, alpha: int = 255) -> None:
        """Fills a polygon (n, 2)."""
        x, y = points[:, 0], points[:, 1]
        (a, b), (c, d) = self.columns
        placed = np.stack((a * x + b * y + self.center[0], c * x + d * y + self.center[1]), axis=1)
        self.pen.polygon(np.rint(placed).ravel().tolist(), fill=(*color, alpha))

    def stroke(self, points: Points, width: float, color: Color, taper: float = 1.0) -> None:
        """Draws a curve (n, 2) as a band with round ends; taper: width at the ends / middle."""
        step = np.empty_like(points)
        step[1:-1] = points[2:] - points[:-2]
        step[0], step[-1] = points[1] - points[0], points[-1] - points[-2]
        length = np.sqrt((step * step).sum(axis=1, keepdims=True)) + 1e-9
        along = np.linspace(-1.0, 1.0, len(points))[:, None]
        half = width / 2 * (1 - (1 - taper) * along * along)
        normal = np.stack((-step[:, 1], step[:, 0]), axis=1) / length * half
        self.fill(np.concatenate((points + normal, (points - normal)[::-1])), color)
        if taper > 0.3:
            for end in (points[0], points[-1]):
                radius = width / 2 * taper
                self.fill(ellipse(end[0], end[1], radius, radius), color)


@dataclass(frozen=True)
class Sitter:
    """What the layers draw: names of the values, traits, and colours derived from them."""

    look: Mapping[str, str]
    scene: Mapping[str, str]
    traits: Traits
    skin: Color
    hair: Color
    turn: int  # -1 looks to the left of the picture, 0 ahead, 1 to the right

    def place(self, points: Points, depth: float = 1.0) -> Points:
        """Turns points (n, 2) with the head; what is nearer to the viewer (depth) moves more."""
        x = points[:, :1] * (1 + 0.02 * self.traits.width)
        if self.turn:
            x = x * 0.95 + 0.05 * self.turn * depth
        return np.concatenate((x, points[:, 1:]), axis=1)

    def outline(self, jaw: str) -> Points:
        """Returns the head's outline: the same skull for all, the given jaw."""
        skull = [(0.0, -0.322), (0.135, -0.292), (0.228, -0.205), (0.266, -0.08), (0.270, 0.03)]
        head = spline(both([*skull, *JAWS[jaw]]))
        lean = np.clip(head[:, 1:] + 0.1, 0, 1) * 1.4
        turned = self.place(head, 0.25)
        return turned + np.concatenate((lean * 0.05 * self.turn, 0 * lean), axis=1)
