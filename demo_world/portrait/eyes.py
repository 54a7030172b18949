"""Eyes and brows, and what is before them."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, Points, Sitter, both, ellipse, shade, spline
from .colours import GLASSES, INK, IRIS, WHITE


def eyes(canvas: Canvas, who: Sitter) -> None:
    """Both eyes, open or closed."""
    for side in (-1, 1):
        x = side * (0.132 + 0.004 * who.traits.spacing)
        y = 0.006 * who.traits.eyes
        far = 0.88 if side == who.turn else 1.0
        if who.scene["eyes"] == "closed":
            lid = spline(
                [(-0.085, -0.005), (-0.045, 0.025), (0.045, 0.025), (0.085, -0.005)], closed=False
            )
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
