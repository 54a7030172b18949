"""Head and shoulders: ears, face, cheeks, marks, nose, mouth, beard."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, Points, Sitter, both, ellipse, mix, shade, spline
from .colours import CLOTH, LIPS, WHITE


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
        band = spline(
            [(-0.12, 0.36), (-0.06, 0.385), (0, 0.392), (0.06, 0.385), (0.12, 0.36)], closed=False
        )
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
