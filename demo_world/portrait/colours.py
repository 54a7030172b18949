"""Colours and outlines of the drawn portraits, by the names of attributes and factors."""

from __future__ import annotations

Color = tuple[int, int, int]


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
