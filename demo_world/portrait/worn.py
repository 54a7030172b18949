"""What is worn or held: hats, hoods, headphones, scarves, masks, a cup, a hand."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, Sitter, both, ellipse, shade, spline
from .colours import CLOTH, Color


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
