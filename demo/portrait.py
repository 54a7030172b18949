"""Draws the portraits of ``demo.world``: flat cartoon heads made of Pillow polygons.

Face coordinates: x to the right, y down, the frame is 1 high and wide in a wide shot and the
origin lies between the eyes. All shapes become polygons with whole pixel corners on a canvas
three times too large, so the same picture comes out on every platform.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Color = tuple[int, int, int]
Points = np.ndarray  # (n, 2) float64, face coordinates

SUPERSAMPLING = 3

SKIN: dict[str, Color] = {
    "porcelain": (255, 228, 212),
    "peach": (250, 200, 164),
    "honey": (230, 170, 112),
    "olive": (194, 150, 92),
    "umber": (146, 92, 58),
    "ebony": (88, 54, 42),
}
HAIR: dict[str, Color] = {
    "black": (38, 34, 44),
    "brunette": (112, 66, 34),
    "blond": (242, 204, 98),
    "ginger": (206, 84, 30),
    "grey": (172, 174, 180),
    "azure": (58, 112, 214),
    "pink": (240, 120, 178),
}
IRIS: dict[str, Color] = {
    "hazel": (128, 70, 24),
    "green": (38, 156, 62),
    "blue": (36, 116, 226),
    "amber": (240, 158, 12),
    "violet": (146, 52, 206),
}
GLASSES: dict[str, Color] = {
    "round": (190, 140, 40),
    "square": (30, 30, 36),
    "half-rim": (150, 30, 46),
    "cat-eye": (110, 40, 140),
}
LIPS: dict[str, Color] = {
    "pale": (214, 128, 112),
    "crimson": (200, 30, 56),
    "plum": (122, 40, 92),
    "coral": (240, 110, 88),
}
CLOTH: dict[str, Color] = {
    "red": (206, 52, 48),
    "blue": (52, 94, 190),
    "green": (62, 146, 84),
    "yellow": (238, 192, 60),
    "purple": (126, 76, 168),
    "white": (240, 240, 236),
    "black": (48, 48, 54),
}
BACKGROUNDS: dict[str, tuple[Color, Color]] = {  # top, bottom
    "blue": ((130, 178, 224), (96, 146, 200)),
    "green": ((158, 204, 152), (118, 172, 118)),
    "yellow": ((250, 226, 146), (236, 200, 108)),
    "pink": ((246, 194, 200), (230, 162, 174)),
    "grey": ((206, 208, 212), (166, 170, 176)),
    "sunset": ((120, 96, 168), (248, 166, 112)),
    "stripes": ((236, 232, 222), (236, 232, 222)),
    "dots": ((196, 224, 224), (196, 224, 224)),
}
LIGHTS: dict[str, tuple[float, float, float]] = {  # what red, green and blue are multiplied by
    "plain": (1.0, 1.0, 1.0),
    "warm": (1.06, 0.95, 0.78),
    "cold": (0.82, 0.95, 1.08),
    "dim": (0.60, 0.60, 0.66),
    "shadow": (1.0, 1.0, 1.0),
}
JAWS: dict[str, tuple[tuple[float, float], ...]] = {  # right half below the eyes: (x, y)
    "round": ((0.268, 0.12), (0.232, 0.215), (0.150, 0.282), (0.0, 0.308)),
    "oval": ((0.252, 0.12), (0.205, 0.225), (0.115, 0.322), (0.0, 0.352)),
    "square": ((0.266, 0.12), (0.254, 0.225), (0.168, 0.312), (0.0, 0.322)),
    "heart": ((0.246, 0.10), (0.172, 0.210), (0.072, 0.318), (0.0, 0.348)),
}

FRINGES = ("side part", "bob")  # the hair styles that reach down to the brows
WHITE: Color = (252, 252, 250)
INK: Color = (44, 34, 40)
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
        return tuple(round(c * (1 + amount)) for c in color)
    return tuple(round(c + (255 - c) * amount) for c in color)


def mix(first: Color, second: Color, share: float) -> Color:
    """Returns the colour that share of the way from the first to the second."""
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))


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

    def stroke(
        self, points: Points, width: float, color: Color, taper: float = 1.0, alpha: int = 255
    ) -> None:
        """Draws a curve (n, 2) as a band with round ends; taper: width at the ends / middle."""
        step = np.empty_like(points)
        step[1:-1] = points[2:] - points[:-2]
        step[0], step[-1] = points[1] - points[0], points[-1] - points[-2]
        length = np.sqrt((step * step).sum(axis=1, keepdims=True)) + 1e-9
        along = np.linspace(-1.0, 1.0, len(points))[:, None]
        half = width / 2 * (1 - (1 - taper) * along * along)
        normal = np.stack((-step[:, 1], step[:, 0]), axis=1) / length * half
        self.fill(np.concatenate((points + normal, (points - normal)[::-1])), color, alpha)
        if alpha == 255 and taper > 0.3:
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

    def outline(self, jaw: str, grow: float = 0.0) -> Points:
        """Returns the head's outline: the same skull for all, the given jaw."""
        skull = [(0.0, -0.322), (0.135, -0.292), (0.228, -0.205), (0.266, -0.08), (0.270, 0.03)]
        head = spline(both([*skull, *JAWS[jaw]]))
        head = head * (1 + grow)
        lean = np.clip(head[:, 1:] + 0.1, 0, 1) * 1.4
        turned = self.place(head, 0.25)
        return turned + np.concatenate((lean * 0.05 * self.turn, 0 * lean), axis=1)


def background(canvas: Canvas, name: str) -> None:
    """Fills the whole canvas."""
    top, bottom = (np.array(color, dtype=np.float64) for color in BACKGROUNDS[name])
    n = canvas.pixels
    share = (np.arange(n) / n)[:, None]
    column = np.rint(top + (bottom - top) * share).astype(np.uint8)[:, None, :]
    canvas.image.paste(Image.fromarray(column).resize((n, n), Image.Resampling.NEAREST))
    if name == "stripes":
        for k in range(-4, 5, 2):
            x = n * k // 8
            canvas.pen.polygon(
                (x + n // 2, 0, x + n * 5 // 8, 0, x + n * 3 // 8, n, x + n // 4, n),
                fill=(226, 148, 120),
            )
    if name == "dots":
        radius = n // 22
        for row in range(7):
            for column_index in range(6):
                x = n * (2 * column_index + row % 2) // 11
                y = n * row // 6
                canvas.pen.ellipse(
                    (x - radius, y - radius, x + radius, y + radius), fill=(90, 158, 168)
                )


def hair_behind(canvas: Canvas, who: Sitter) -> None:
    """What of the hair lies behind head and ears."""
    style, color = who.look["hairstyle"], shade(who.hair, -0.22)
    if style == "bob":
        shape = [(0, -0.38), (0.2, -0.34), (0.31, -0.2), (0.345, 0.0), (0.36, 0.16), (0.35, 0.27)]
        canvas.fill(who.place(spline(both([*shape, (0.2, 0.29)])), -0.4), color)
    elif style == "long":
        shape = [(0, -0.37), (0.2, -0.33), (0.30, -0.2), (0.335, 0.0), (0.36, 0.25), (0.40, 0.6)]
        canvas.fill(who.place(spline(both([*shape, (0.2, 0.64)])), -0.4), color)
    elif style == "curly":
        for x, y in ((0.13, -0.33), (0.27, -0.25), (0.35, -0.11), (0.355, 0.04), (0.31, 0.16)):
            for side in (-1, 1):
                canvas.fill(who.place(ellipse(side * x, y, 0.115, 0.115), -0.5), color)
        canvas.fill(who.place(ellipse(0, -0.35, 0.12, 0.1), -0.5), color)
    elif style == "bun":
        canvas.fill(who.place(ellipse(0, -0.375, 0.115, 0.095), -0.6), color)
        canvas.fill(who.place(ellipse(-0.02, -0.39, 0.08, 0.06), -0.6), who.hair)


def body(canvas: Canvas, who: Sitter) -> None:
    """Neck, shoulders and necklace."""
    cloth = CLOTH[who.scene["shirt"]]
    neck = np.array([(-0.115, 0.2), (0.115, 0.2), (0.125, 0.5), (-0.125, 0.5)])
    shoulders = [(0.0, 0.435), (0.13, 0.425), (0.27, 0.452), (0.4, 0.52), (0.5, 0.8), (0.0, 0.9)]
    canvas.fill(spline(both(shoulders)), cloth)
    canvas.fill(neck, shade(who.skin, -0.18))
    canvas.fill(ellipse(0, 0.44, 0.135, 0.06), shade(who.skin, -0.12))
    rim = spline([(-0.15, 0.42), (-0.09, 0.488), (0, 0.508), (0.09, 0.488), (0.15, 0.42)], False)
    canvas.stroke(rim, 0.03, shade(cloth, -0.2))
    kind = who.look["necklace"]
    if kind == "beads":
        for x, y in ((0.0, 0.475), (0.055, 0.468), (0.105, 0.447), (0.135, 0.41)):
            for side in (-1, 1) if x else (1,):
                canvas.fill(ellipse(side * x, y, 0.026, 0.026), (244, 238, 222))
                canvas.fill(ellipse(side * x, y + 0.006, 0.016, 0.016), (214, 202, 180))
    elif kind == "choker":
        band = spline([(-0.12, 0.36), (-0.06, 0.385), (0, 0.392), (0.06, 0.385), (0.12, 0.36)], 0)
        canvas.stroke(band + (0, 0.025), 0.04, (30, 26, 40))
        canvas.fill(ellipse(0, 0.44, 0.03, 0.036), (30, 190, 170))


def ears(canvas: Canvas, who: Sitter) -> None:
    """Ears and earrings; the far ear of a turned head is out of sight."""
    kind = who.look["ears"]
    outer = {
        "small": [(0.24, -0.035), (0.285, -0.04), (0.302, 0.01), (0.285, 0.065), (0.24, 0.08)],
        "large": [(0.23, -0.08), (0.31, -0.11), (0.362, -0.04), (0.325, 0.07), (0.235, 0.105)],
        "pointed": [(0.235, -0.02), (0.32, -0.1), (0.385, -0.19), (0.345, -0.02), (0.24, 0.09)],
    }[kind]
    for side in (-1, 1):
        if side == who.turn:
            continue
        shape = spline(outer) * (side, 1)
        inner = (shape - (side * 0.275, 0.0)) * 0.55 + (side * 0.282, 0.0)
        canvas.fill(who.place(shape, -0.3), shade(who.skin, -0.06))
        canvas.fill(who.place(inner, -0.3), shade(who.skin, -0.25))


def earrings(canvas: Canvas, who: Sitter) -> None:
    """Earrings, at the lobes; they hang in front of any hair."""
    kind = who.look["earrings"]
    for side in (-1, 1):
        if side == who.turn or kind == "none":
            continue
        if kind == "hoops":
            ring = who.place(ellipse(side * 0.312, 0.15, 0.042, 0.055), -0.3)
            canvas.stroke(np.concatenate((ring, ring[:2])), 0.022, (250, 200, 40))
        else:
            canvas.fill(who.place(ellipse(side * 0.296, 0.09, 0.033, 0.033), -0.3), (40, 200, 220))
            canvas.fill(who.place(ellipse(side * 0.28, 0.08, 0.013, 0.013), -0.3), WHITE)


def face(canvas: Canvas, who: Sitter) -> None:
    """The head itself, with a darker rim below and a light spot on the forehead."""
    outline = who.outline(who.look["face"])
    canvas.fill(outline * (0.93, 1) + (0, 0.03), shade(who.skin, -0.32), 110)  # on the neck
    canvas.fill(outline, shade(who.skin, -0.10))
    canvas.fill(outline * (0.955, 0.965) + (-0.006, -0.008), shade(who.skin, -0.04))
    canvas.fill(outline * (0.90, 0.92) + (-0.01, -0.014), who.skin)
    glow = who.place(ellipse(-0.07, -0.13, 0.13, 0.1), 0.6)
    canvas.fill(glow, shade(who.skin, 0.25), 70)


def cheeks(canvas: Canvas, who: Sitter) -> None:
    """Blush or wrinkles, below the eyes."""
    kind = who.look["cheeks"]
    for side in (-1, 1):
        if kind == "blush":
            color = mix(who.skin, (240, 50, 84), 0.62)
            for size in (1.0, 0.75, 0.5):
                spot = ellipse(side * 0.178, 0.125, 0.062 * size, 0.045 * size)
                canvas.fill(who.place(spot, 0.8), color, 140)
        elif kind == "wrinkles":
            color = shade(who.skin, -0.42 - 0.3 * (1 - who.skin[0] / 255))  # told on dark skin too
            fold = [(0.088, 0.118), (0.122, 0.15), (0.146, 0.20), (0.142, 0.238)]
            bag = [(0.075, 0.076), (0.13, 0.094), (0.185, 0.08)]
            for line in (fold, bag):
                curve = spline(np.array(line) * (side, 1), False)
                canvas.stroke(who.place(curve, 0.9), 0.025, color, 0.45)


def marks(canvas: Canvas, who: Sitter) -> None:
    """Freckles, a mole or a scar; what lies on the far cheek of a turned head is out of sight."""
    kind = who.look["mark"]
    dark = mix(who.skin, (96, 40, 20), 0.62) if who.look["skin"] != "ebony" else (34, 18, 16)
    if kind == "freckles":
        for x, y in ((0.10, 0.108), (0.155, 0.092), (0.2, 0.112), (0.13, 0.152), (0.182, 0.158)):
            for side in (-1, 1):
                canvas.fill(who.place(ellipse(side * x, y, 0.0165, 0.0165), 0.9), dark)
    elif kind in ("left mole", "right mole"):
        side = -1 if kind == "left mole" else 1
        mole = mix(who.skin, (20, 8, 8), 0.75)
        if side != who.turn:
            canvas.fill(who.place(ellipse(side * 0.185, 0.13, 0.032, 0.032), 0.8), mole)
            spot = ellipse(side * 0.185 - 0.007, 0.122, 0.011, 0.011)
            canvas.fill(who.place(spot, 0.8), (120, 78, 64))
    elif kind == "scar" and who.turn != 1:
        color = mix(who.skin, (196, 40, 60) if who.skin[0] > 160 else (250, 180, 172), 0.7)
        line = np.array([(0.145, 0.098), (0.2, 0.19)])
        canvas.stroke(who.place(line, 0.8), 0.028, color)
        for t in (0.2, 0.5, 0.8):
            x, y = line[0] + (line[1] - line[0]) * t
            stitch = np.array([(x - 0.028, y + 0.014), (x + 0.028, y - 0.014)])
            canvas.stroke(who.place(stitch, 0.8), 0.012, color)


def eyes(canvas: Canvas, who: Sitter) -> None:
    """Both eyes, open or closed."""
    for side in (-1, 1):
        x = side * (0.132 + 0.004 * who.traits.spacing)
        y = 0.006 * who.traits.eyes
        far = 0.88 if side == who.turn else 1.0
        if who.scene["eyes"] == "closed":
            lid = spline([(-0.085, -0.005), (-0.045, 0.025), (0.045, 0.025), (0.085, -0.005)], 0)
            canvas.stroke(who.place(lid * (far, 1) + (x, y), 1), 0.024, INK, 0.5)
            for dx in (-0.05, 0.0, 0.05):
                lash = np.array([(dx, 0.024), (dx * 1.2, 0.052)])
                canvas.stroke(who.place(lash * (far, 1) + (x, y), 1), 0.014, INK)
        else:
            open_eye(canvas, who, side, (x, y), far)


def open_eye(
    canvas: Canvas, who: Sitter, side: int, at: tuple[float, float], narrow: float
) -> None:
    """White, iris, pupil, light and upper lid; the iris is cut off at the lids."""
    kind = who.look["eye shape"]
    up, down, slant = {
        "round": (0.074, 0.062, 0.0),
        "almond": (0.056, 0.040, 0.03),
        "hooded": (0.030, 0.050, -0.012),
    }[kind]
    t = np.linspace(-1.0, 1.0, 17)
    bow = np.sqrt(1 - t * t) if kind == "round" else 1 - t * t
    lift = -slant * t * side
    across = 0.09 * t * (0.97 if kind == "round" else 1.03)

    def put(points: Points) -> Points:
        return who.place(points * (narrow, 1) + at, 1)

    upper = np.stack((across, lift - up * bow), axis=1)
    lower = np.stack((across, lift + down * bow), axis=1)
    canvas.fill(put(np.concatenate((upper, lower[::-1]))), WHITE)

    def inside(points: Points) -> Points:
        low = np.interp(points[:, 0], across, upper[:, 1])
        high = np.interp(points[:, 0], across, lower[:, 1])
        return np.stack((points[:, 0], np.clip(points[:, 1], low, high)), axis=1)

    gaze = 0.014 * who.turn
    color = IRIS[who.look["eye colour"]]
    canvas.fill(put(inside(ellipse(gaze, 0.002, 0.058, 0.060))), shade(color, -0.4))
    canvas.fill(put(inside(ellipse(gaze, 0.006, 0.049, 0.052))), color)
    canvas.fill(put(inside(ellipse(gaze, 0.028, 0.03, 0.022))), shade(color, 0.35))
    canvas.fill(put(inside(ellipse(gaze, 0.0, 0.022, 0.024))), (16, 12, 18))
    canvas.fill(put(inside(ellipse(gaze - 0.02, -0.02, 0.015, 0.015))), WHITE)
    canvas.stroke(put(upper), 0.022 if kind != "hooded" else 0.034, INK, 0.6)
    canvas.stroke(put(lower), 0.008, shade(who.skin, -0.4), 0.5)


def brows(canvas: Canvas, who: Sitter) -> None:
    """Eyebrows, moved by the expression."""
    shapes = {
        "straight": ([(-0.085, 0.0), (0.0, -0.004), (0.085, 0.0)], 0.034, 0.9),
        "arched": ([(-0.085, 0.022), (0.02, -0.03), (0.09, 0.018)], 0.032, 0.5),
        "bushy": ([(-0.09, 0.006), (0.0, -0.014), (0.09, 0.006)], 0.06, 0.8),
        "slanted": ([(-0.085, 0.03), (0.02, -0.008), (0.085, -0.032)], 0.04, 0.5),
    }
    points, width, taper = shapes[who.look["brows"]]
    color = shade(who.hair, -0.25)
    tilt = {"sad": 0.22, "laughing": 0.0}.get(who.scene["expression"], 0.0)
    raise_by = {"laughing": 0.008, "sad": -0.004}.get(who.scene["expression"], 0.0)
    for side in (-1, 1):
        curve = spline(points, False)
        curve = curve + np.stack((0 * curve[:, 0], curve[:, 0] * tilt), axis=1)
        x = 0.132 + 0.004 * who.traits.spacing
        placed = (curve + (x, -0.117 - raise_by + 0.003 * who.traits.eyes)) * (side, 1)
        canvas.stroke(who.place(placed, 1), width, color, taper)


def nose(canvas: Canvas, who: Sitter) -> None:
    """The nose, all of it below the line of the eyes."""
    dark, light = shade(who.skin, -0.36), shade(who.skin, 0.4)
    base = 0.004 * who.traits.nose
    kind = who.look["nose"]

    def put(points: object) -> Points:
        return who.place(np.asarray(points, dtype=np.float64) + (0, base), 1.5)

    if kind == "button":
        canvas.fill(put(ellipse(0, 0.108, 0.055, 0.045)), dark)
        canvas.fill(put(ellipse(-0.004, 0.1, 0.045, 0.036)), mix(who.skin, (240, 120, 110), 0.25))
        canvas.fill(put(ellipse(-0.018, 0.088, 0.015, 0.011)), light)
    elif kind == "long":
        shape = [(-0.012, 0.04), (0.016, 0.045), (0.04, 0.125), (0.028, 0.15), (-0.03, 0.15)]
        canvas.fill(put(spline([*shape, (-0.038, 0.125)])), dark)
        canvas.fill(put(ellipse(-0.006, 0.1, 0.013, 0.045)), shade(who.skin, 0.1))
    elif kind == "wide":
        for side in (-1, 1):
            canvas.fill(put(ellipse(side * 0.058, 0.115, 0.03, 0.027)), shade(who.skin, -0.3))
        canvas.fill(put(ellipse(0, 0.105, 0.06, 0.04)), shade(who.skin, -0.17))
        canvas.fill(put(ellipse(-0.01, 0.094, 0.022, 0.014)), light)
    else:
        triangle = [(0.0, 0.04), (0.07, 0.138), (0.0, 0.15)]
        canvas.fill(put(triangle), shade(who.skin, -0.44))
        canvas.fill(put([(0.0, 0.04), (0.0, 0.15), (-0.045, 0.138)]), shade(who.skin, 0.34))


def mouth(canvas: Canvas, who: Sitter) -> None:
    """The mouth: its lips' shape and colour are the identity's, its curve the expression's."""
    kind, mood = who.look["mouth"], who.scene["expression"]
    color = LIPS[kind]
    half = {"pale": 0.118, "crimson": 0.11, "plum": 0.112, "coral": 0.13}[kind]
    thick = {"pale": 0.02, "crimson": 0.052, "plum": 0.034, "coral": 0.042}[kind]
    bend = {"neutral": 0.004, "smiling": 0.04, "laughing": 0.04, "sad": -0.036}[mood]
    t = np.linspace(-1.0, 1.0, 15)
    center = 0.214 + 0.004 * who.traits.mouth

    def line(offset: float, bow: float) -> Points:
        y = center + bend * (0.5 - t * t) + offset + bow * (1 - t * t)
        return np.stack((half * t, y), axis=1)

    cupid = 0.35 * thick * (1 - (2.2 * t) ** 2).clip(0, 1) if kind != "pale" else 0 * t
    gap = 0.062 if mood == "laughing" else 0.0
    top, middle = line(0, -thick * 0.75), line(0, 0.0)
    top[:, 1] += cupid
    bottom, low = line(0, gap), line(0, gap + thick)
    if kind == "plum":  # a heavier lower lip, squarer
        low[:, 1] += 0.014 * (1 - t**4)
    canvas.fill(who.place(np.concatenate((top, low[::-1])), 1), color)
    canvas.fill(who.place(np.concatenate((top, middle[::-1])), 1), shade(color, -0.18))
    if gap:
        canvas.fill(who.place(np.concatenate((middle, bottom[::-1])), 1), (92, 20, 32))
        teeth = line(0, gap * 0.42)
        canvas.fill(who.place(np.concatenate((middle, teeth[::-1])) * (0.9, 1), 1), WHITE)
    else:
        canvas.stroke(who.place(middle, 1), 0.012, shade(color, -0.5), 0.5)


def beard(canvas: Canvas, who: Sitter) -> None:
    """The beard, below the mouth's layer."""
    kind, color = who.look["beard"], shade(who.hair, -0.16)
    jaw = who.outline(who.look["face"])
    if kind in ("full", "stubble"):
        lower = jaw[jaw[:, 1] > 0.09]
        edge = spline([(-0.2, 0.17), (-0.12, 0.158), (0, 0.15), (0.12, 0.158), (0.2, 0.17)], False)
        shape = np.concatenate((lower, who.place(edge, 1)))
        if kind == "full":
            canvas.fill(shape, color)
            grown = lower + (0, 0.02)
            canvas.fill(np.concatenate((lower, grown[::-1])), color)
            canvas.fill(shape * (0.9, 0.98), shade(who.hair, -0.04), 120)
        else:
            canvas.fill(shape, mix(who.skin, color, 0.9), 125)
            for x, y in ((0.19, 0.2), (0.13, 0.25), (0.06, 0.275), (0.16, 0.17), (0.09, 0.3)):
                for side in (-1, 1):
                    canvas.fill(who.place(ellipse(side * x, y, 0.015, 0.015), 0.9), color)
    if kind == "goatee" and who.scene["hat"] != "hood":  # a hood is closed over the chin
        chin = [(0.0, 0.262), (0.07, 0.262), (0.128, 0.235), (0.105, 0.325), (0.0, 0.372)]
        canvas.fill(who.place(spline(both(chin)), 1.0), color)
        sheen = spline([(-0.06, 0.31), (0.0, 0.33), (0.06, 0.31)], False)
        canvas.stroke(who.place(sheen, 1.0), 0.014, who.hair, 0.4)
    if kind in ("moustache", "full"):
        half = [(0.0, 0.148), (0.07, 0.146), (0.135, 0.19), (0.075, 0.196), (0.0, 0.186)]
        canvas.fill(who.place(spline(both(half)), 1.1), color)


def glasses(canvas: Canvas, who: Sitter) -> None:
    """The identity's own glasses: only frames, so that the eyes stay visible."""
    kind = who.look["glasses"]
    if kind == "none":
        return
    color, width = GLASSES[kind], 0.026
    square = [(-0.108, -0.078), (0.108, -0.078), (0.104, 0.085), (-0.104, 0.085)]
    cat = [
        (-0.1, -0.06),
        (0.09, -0.078),
        (0.15, -0.112),
        (0.112, 0.04),
        (0.03, 0.09),
        (-0.08, 0.07),
    ]
    for side in (-1, 1):
        if kind == "round":
            lens = ellipse(0, 0.006, 0.108, 0.102)
        elif kind == "square":
            lens = np.array(square)
        elif kind == "half-rim":
            rim = [(-0.108, 0.02), (-0.11, -0.05), (-0.08, -0.085), (0.0, -0.09), (0.085, -0.085)]
            lens = spline([*rim, (0.118, -0.05), (0.114, 0.02)], False)
            width = 0.036
        else:
            lens = spline(cat)
            width = 0.032
        ring = who.place((lens + (0.132, 0)) * (side, 1), 1.0)
        if kind != "half-rim":
            ring = np.concatenate((ring, ring[:2]))
        if kind == "square":  # its corners need strokes of their own
            for k in range(4):
                canvas.stroke(ring[k : k + 2], width, color)
        else:
            canvas.stroke(ring, width, color)
        arm = np.array([(0.24, -0.02), (0.272, -0.015)]) * (side, 1)
        canvas.stroke(who.place(arm, 0.6), 0.022, color)
    bridge = spline([(-0.03, -0.01), (0.0, -0.024), (0.03, -0.01)], False)
    canvas.stroke(who.place(bridge, 1.0), 0.024, color)


def cap_of_hair(hairline: object, rise: float = 0.03, width: float = 0.29) -> Points:
    """Returns the hair on the skull: over its top, back along the hairline (right to left)."""
    arch = [(-width, 0.0), (-width * 0.97, -0.13), (-width * 0.8, -0.24), (-0.12, -0.322 - rise)]
    over = [*arch, (0.0, -0.332 - rise), *((-x, y) for x, y in reversed(arch))]
    return np.concatenate((spline(over, False), spline(hairline, False)))


def hair_in_front(canvas: Canvas, who: Sitter) -> None:
    """Hair on the forehead and at the temples."""
    style, color = who.look["hairstyle"], who.hair
    light = shade(color, 0.22)
    high = [(0.275, -0.03), (0.26, -0.14), (0.16, -0.215), (0.0, -0.232)]
    temple = [(-0.16, -0.215), (-0.26, -0.14), (-0.275, -0.03)]
    if style == "bald":
        return
    lines = {
        "short": [*high, *temple],
        "curly": [*high, *temple],
        "spiky": [*high, *temple],
        "bun": [*high, *temple],
        "side part": [(0.265, -0.03), (0.25, -0.13), (0.13, -0.27), (0.0, -0.175), (-0.15, -0.125),
                      (-0.25, -0.095), (-0.27, -0.03)],
        "bob": [(0.262, -0.04), (0.236, -0.11), (0.2, -0.138), (0.1, -0.148), (0.0, -0.15),
                (-0.1, -0.148), (-0.2, -0.138), (-0.236, -0.11), (-0.262, -0.04)],
        "long": [(0.272, 0.02), (0.252, -0.12), (0.16, -0.205), (0.0, -0.3), (-0.16, -0.205),
                 (-0.252, -0.12), (-0.272, 0.02)],
    }  # fmt: skip
    rise = {"side part": 0.085, "short": 0.025, "bun": 0.012}.get(style, 0.04)
    shape = cap_of_hair(lines[style], rise, 0.296 if style in ("bob", "long") else 0.282)
    if style == "spiky":
        tips = [(-0.27, -0.15), (-0.37, -0.2), (-0.25, -0.22), (-0.29, -0.36), (-0.15, -0.3),
                (-0.12, -0.45), (-0.02, -0.33), (0.08, -0.46), (0.13, -0.31), (0.28, -0.38),
                (0.25, -0.22), (0.37, -0.21), (0.27, -0.15), (0.0, -0.24)]  # fmt: skip
        canvas.fill(who.place(np.array(tips), 0.1), color)
    canvas.fill(who.place(shape, 0.2), color)
    if style == "curly":
        for x, y in ((0.0, -0.26), (0.1, -0.25), (0.19, -0.2), (0.255, -0.1)):
            for side in (-1, 1) if x else (1,):
                canvas.fill(who.place(ellipse(side * x, y - 0.03, 0.072, 0.066), 0.2), color)
                curl = ellipse(side * x - 0.01, y - 0.05, 0.03, 0.022)
                canvas.fill(who.place(curl, 0.2), light, 150)
    elif style in ("bob", "long", "short", "side part", "bun"):
        top = -0.325 - rise
        arc = spline([(-0.2, top + 0.13), (-0.11, top + 0.055), (0.02, top + 0.045)], False)
        canvas.stroke(who.place(arc, 0.2), 0.03, light, 0.2)


def sunglasses(canvas: Canvas, who: Sitter) -> None:
    """Dark lenses that hide the eyes and take the place of the identity's glasses."""
    for side in (-1, 1):
        lens = spline([(-0.115, -0.075), (0.0, -0.082), (0.118, -0.078), (0.112, 0.045),
                       (0.03, 0.098), (-0.07, 0.088), (-0.112, 0.03)])  # fmt: skip
        lens = (lens + (0.136, 0)) * (side, 1)
        canvas.fill(who.place(lens, 1), (24, 22, 28))
        gleam = np.array([(0.07, -0.06), (0.11, -0.06), (0.06, 0.06), (0.04, 0.06)])
        canvas.fill(who.place(gleam + (0.13 * (side - 1), 0), 1), (92, 96, 112))
    canvas.stroke(who.place(np.array([(-0.04, -0.05), (0.04, -0.05)]), 1), 0.034, (24, 22, 28))


def goggles(canvas: Canvas, who: Sitter) -> None:
    """Ski goggles from above the brows to the cheeks."""
    right = [(0.0, -0.178), (0.15, -0.182), (0.252, -0.14), (0.262, 0.0), (0.2, 0.082)]
    frame = spline(both([*right, (0.08, 0.084), (0.0, 0.05)]))
    strap = np.array([(-0.27, -0.09), (0.27, -0.09), (0.27, 0.0), (-0.27, 0.0)])
    canvas.fill(who.place(strap, 0.2), (40, 44, 60))
    canvas.fill(who.place(frame, 1), (232, 232, 236))
    canvas.fill(who.place(frame * (0.9, 0.84) + (0, -0.008), 1), (226, 112, 40))
    canvas.fill(who.place(ellipse(-0.11, -0.09, 0.075, 0.035), 1), (250, 176, 90))


def hat_behind(canvas: Canvas, who: Sitter) -> None:
    """What of the headgear lies behind the head."""
    if who.scene["hat"] != "hood":
        return
    color = CLOTH[who.scene["hat colour"]]
    shape = [(0.0, -0.43), (0.2, -0.39), (0.34, -0.24), (0.385, 0.0), (0.38, 0.25), (0.3, 0.5)]
    canvas.fill(who.place(spline(both([*shape, (0.0, 0.56)])), 0), shade(color, -0.4))


def hood(canvas: Canvas, color: Color, who: Sitter) -> None:
    """A hood, closed below the chin: a ring around an opening narrower than the head."""
    outer = [(0.0, -0.43), (0.2, -0.39), (0.34, -0.24), (0.385, 0.0), (0.38, 0.25), (0.3, 0.5)]
    inner = [
        (0.0, -0.225),
        (0.12, -0.21),
        (0.215, -0.13),
        (0.232, 0.02),
        (0.172, 0.19),
        (0.085, 0.258),
    ]
    first = spline(both([*outer, (0.0, 0.56)]))
    second = spline(both([*inner, (0.0, 0.28)]))
    ring = np.concatenate((first, first[:1], second[:1], second[::-1]))
    canvas.fill(who.place(ring, 0.65), color)
    edge = np.concatenate((second, second[:2]))
    canvas.stroke(who.place(edge * 1.03, 0.65), 0.022, shade(color, -0.22))
    canvas.stroke(who.place(edge * (1.25, 1.22), 0.5), 0.012, shade(color, -0.14))


def hat(canvas: Canvas, who: Sitter) -> None:
    """Headgear in front of the hair."""
    kind, color = who.scene["hat"], CLOTH[who.scene["hat colour"]]
    if kind == "hood":
        hood(canvas, color, who)
    elif kind == "beanie":
        dome = [(0.0, -0.415), (0.16, -0.385), (0.27, -0.27), (0.3, -0.14), (0.0, -0.12)]
        canvas.fill(who.place(spline(both(dome)), 0.1), color)
        canvas.fill(who.place(ellipse(0, -0.43, 0.06, 0.055), 0.0), shade(color, 0.35))
        band = both(
            [(0.0, -0.2), (0.2, -0.19), (0.31, -0.15), (0.318, -0.05), (0.2, -0.072), (0, -0.078)]
        )
        canvas.fill(who.place(band, 0.2), shade(color, -0.22))
        for x in (-0.24, -0.16, -0.08, 0.0, 0.08, 0.16, 0.24):
            rib = np.array([(x, -0.175), (x, -0.09)])
            canvas.stroke(who.place(rib, 0.3), 0.012, shade(color, -0.36))
    elif kind == "cap":
        dome = [
            (0.0, -0.40),
            (0.16, -0.375),
            (0.27, -0.27),
            (0.3, -0.12),
            (0.15, -0.12),
            (0, -0.12),
        ]
        canvas.fill(who.place(spline(both(dome)), 0.1), color)
        panel = spline(both([(0.0, -0.4), (0.07, -0.34), (0.1, -0.2), (0.0, -0.18)]))
        canvas.fill(who.place(panel, 0.4), shade(color, 0.16))
        visor = [(0.0, -0.2), (0.16, -0.192), (0.275, -0.15), (0.33, -0.075), (0.16, -0.082)]
        canvas.fill(who.place(spline(both([*visor, (0.0, -0.084)])), 1.6), shade(color, -0.25))
    elif kind == "headphones":
        arch = spline([(-0.31, 0.0), (-0.3, -0.2), (-0.17, -0.36), (0.0, -0.41), (0.17, -0.36),
                       (0.3, -0.2), (0.31, 0.0)], False)  # fmt: skip
        canvas.stroke(who.place(arch, 0.0), 0.05, shade(color, -0.3))
        for side in (-1, 1):
            pad = ellipse(side * 0.315, 0.03, 0.085, 0.185)
            canvas.fill(who.place(pad, -0.2), color)
            canvas.fill(
                who.place(ellipse(side * 0.33, 0.03, 0.045, 0.11), -0.2), shade(color, -0.3)
            )


def lower_face(canvas: Canvas, who: Sitter) -> None:
    """What is held or worn in front of the lower face."""
    kind = who.scene["lower face"]
    if kind == "scarf":
        right = [
            (0.0, 0.022),
            (0.12, 0.05),
            (0.26, 0.052),
            (0.315, 0.1),
            (0.32, 0.26),
            (0.33, 0.42),
        ]
        color = CLOTH[who.scene["scarf colour"]]
        shape = who.place(spline(both([*right, (0.18, 0.5), (0.0, 0.52)])), 0.6)
        canvas.fill(shape, color)
        for k, y in enumerate((0.15, 0.25, 0.35)):
            fold = spline([(-0.29, y - 0.03), (0.0, y + 0.03 - 0.02 * k), (0.29, y - 0.01)], False)
            canvas.stroke(who.place(fold, 0.7), 0.024, shade(color, -0.25), 0.4)
    elif kind == "mask":
        right = [
            (0.0, 0.022),
            (0.1, 0.05),
            (0.2, 0.058),
            (0.282, 0.04),
            (0.285, 0.15),
            (0.262, 0.27),
        ]
        shape = who.place(spline(both([*right, (0.16, 0.368), (0.0, 0.392)])), 0.6)
        canvas.fill(shape, (178, 214, 226))
        for y in (0.13, 0.2, 0.27):
            fold = spline([(-0.2, y), (0.0, y + 0.025), (0.2, y)], False)
            canvas.stroke(who.place(fold, 0.9), 0.014, (128, 174, 192), 0.5)
    elif kind == "hand":
        hand(canvas, who)
    elif kind == "cup":
        right = [(0.0, 0.168), (0.15, 0.17), (0.15, 0.32), (0.11, 0.412), (0.0, 0.414)]
        cup = spline(both(right))
        handle = who.place(ellipse(0.17, 0.28, 0.06, 0.065), 1)
        canvas.stroke(np.concatenate((handle, handle[:2])), 0.03, (206, 210, 216))
        canvas.fill(who.place(cup, 1), (236, 238, 240))
        canvas.fill(who.place(ellipse(0, 0.169, 0.154, 0.027), 1), (250, 250, 250))
        canvas.fill(who.place(ellipse(0, 0.3, 0.06, 0.06), 1), (226, 90, 80))


def hand(canvas: Canvas, who: Sitter) -> None:
    """A hand over mouth and chin: four fingers from the right, the arm below."""
    skin, edge = shade(who.skin, 0.06), shade(who.skin, -0.28)
    cloth = CLOTH[who.scene["shirt"]]
    arm = np.array([(0.06, 0.36), (0.2, 0.3), (0.34, 0.7), (0.12, 0.7)])
    canvas.fill(
        who.place(spline([(0.0, 0.15), (0.15, 0.16), (0.2, 0.27), (0.18, 0.4), (0.0, 0.4)]), 1),
        edge,
    )
    canvas.fill(who.place(arm, 1), edge)
    canvas.fill(who.place(arm * (0.97, 1), 1), skin)
    canvas.stroke(np.array([(0.13, 0.52), (0.3, 0.47)]), 0.1, cloth)
    for k in range(4):
        y = 0.176 + 0.056 * k
        finger = np.array([(-0.125 + 0.012 * k * k * 0.6, y + 0.004), (0.13, y)])
        canvas.stroke(who.place(finger, 1), 0.07, edge)
        canvas.stroke(who.place(finger, 1), 0.056, skin)
    canvas.fill(who.place(ellipse(0.12, 0.27, 0.075, 0.105), 1), skin)


def finish(image: Image.Image, light: str, jitter: Jitter) -> Image.Image:
    """Reduces to the final size, then light, blur and noise (float32 arithmetic)."""
    pixels = np.asarray(image.reduce(SUPERSAMPLING), dtype=np.float32)
    size = len(pixels)
    if jitter.blur:
        weight = np.float32(jitter.blur)
        for axis in (0, 1):
            wide = np.concatenate(
                (pixels.take([0], axis), pixels, pixels.take([size - 1], axis)), axis=axis
            )
            before, after = np.arange(size), np.arange(size) + 2
            sides = wide.take(before, axis) + wide.take(after, axis)
            pixels = pixels * (1 - 2 * weight) + sides * weight
    pixels = pixels * np.array(LIGHTS[light], dtype=np.float32)
    if light == "shadow":
        across = np.arange(size, dtype=np.float32) / np.float32(size)
        pixels = pixels * (1 - np.float32(0.55) * ((across - 0.42) * 3.5).clip(0, 1))[None, :, None]
    generator = np.random.Generator(np.random.PCG64(jitter.seed))
    grain = generator.integers(0, 256, (2, size, size, 1), dtype=np.uint8).astype(np.float32)
    pixels = pixels + (grain[0] - grain[1]) * np.float32(jitter.noise / 104)
    return Image.fromarray((pixels + np.float32(0.5)).clip(0, 255).astype(np.uint8))


def render(
    look: Mapping[str, str],
    traits: Traits,
    scene: Mapping[str, str],
    jitter: Jitter,
    size: int = 128,
) -> Image.Image:
    """Draws a portrait.

    Args:
        look: identity attribute -> value.
        traits: the identity's small continuous traits.
        scene: view factor -> value.
        jitter: unnamed variation of the view.
        size: pixels of each side.

    Returns:
        An RGB picture, size x size.
    """
    turn = {"left": -1, "ahead": 0, "right": 1}[scene["pose"]]
    close = scene["crop"] == "close"
    scale = jitter.scale * (2.12 if close else 1.0)
    right, down = jitter.shift
    center = (0.5 + right, 0.47 + down)
    if close:  # on the features: hair, ears and neck are out of the frame
        center = (0.5 - 0.03 * scale * turn + right / 3, 0.5 - 0.08 * scale + down / 3)
    canvas = Canvas(size, scale, center, jitter.tilt)
    who = Sitter(
        look=look,
        scene=scene,
        traits=traits,
        skin=warmer(SKIN[look["skin"]], traits.skin_hue),
        hair=warmer(HAIR[look["hair colour"]], traits.hair_hue),
        turn=turn,
    )
    headgear = scene["hat"]
    # In a close-up hair is out of the frame, or brushed out of it, but for a deep fringe.
    cut = close and look["hairstyle"] not in FRINGES
    tucked = headgear in ("beanie", "hood") or cut
    background(canvas, scene["background"])
    hat_behind(canvas, who)
    if not tucked and not close and not (headgear == "cap" and look["hairstyle"] == "bun"):
        hair_behind(canvas, who)
    body(canvas, who)
    if headgear not in ("hood", "headphones"):
        ears(canvas, who)
    face(canvas, who)
    cheeks(canvas, who)
    marks(canvas, who)
    if not (headgear == "hood" and scene["lower face"] in ("hand", "cup")):  # a sliver at most
        beard(canvas, who)
    mouth(canvas, who)
    hidden_eyes = scene["eyewear"] != "none"
    if not hidden_eyes:
        eyes(canvas, who)
    if not tucked and headgear != "cap":
        hair_in_front(canvas, who)
    if headgear not in ("cap", "beanie") and scene["eyewear"] != "goggles":
        brows(canvas, who)
    nose(canvas, who)
    if headgear not in ("hood", "headphones"):
        earrings(canvas, who)
    if headgear != "headphones":
        hat(canvas, who)
    if scene["eyewear"] == "sunglasses":
        sunglasses(canvas, who)
    elif scene["eyewear"] == "goggles":
        goggles(canvas, who)
    else:
        glasses(canvas, who)
    if headgear == "headphones":
        hat(canvas, who)
    lower_face(canvas, who)
    return finish(canvas.image, scene["light"], jitter)
