"""Hair behind the head and in front of it."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, Points, Sitter, both, ellipse, shade, spline


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
