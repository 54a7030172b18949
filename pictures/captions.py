"""CelebA's 40 attributes -> a caption, drawn from a small grammar.

What a person always looks like (nose, lips, face shape, eyebrows) is left out: it must come
through the reference pictures. What a view shows (expression, accessories, hair) is said.
"""

from __future__ import annotations

import random
from collections.abc import Set

NO_ATTRIBUTES = "a photo of a person"
# The names in CelebA's own files, for telling whether a table has them.
ATTRIBUTES = (
    *("5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs"),
    *("Big_Lips", "Big_Nose", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair"),
    *("Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses", "Goatee", "Gray_Hair"),
    *("Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache"),
    *("Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline"),
    *("Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings"),
    *("Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young"),
)

_SHOTS = ("a photo of", "a portrait of", "a close-up photo of", "a picture of")
_MEN, _WOMEN = ("man", "man", "person"), ("woman", "woman", "person")
_TEXTURES = {"Straight_Hair": "straight", "Wavy_Hair": "wavy"}
_COLOURS = {
    "Black_Hair": "black",
    "Blond_Hair": "blond",
    "Brown_Hair": "brown",
    "Gray_Hair": "gray",
}
_BEARDS = {"Goatee": "a goatee", "Mustache": "a mustache", "Sideburns": "sideburns"}
_WORN = {
    "Eyeglasses": ("glasses", "eyeglasses"),
    "Wearing_Hat": ("a hat",),
    "Wearing_Earrings": ("earrings",),
    "Wearing_Necklace": ("a necklace",),
    "Wearing_Necktie": ("a necktie", "a tie"),
    "Wearing_Lipstick": ("lipstick",),
    "Heavy_Makeup": ("make-up",),
}
_MENTION = 0.8  # chance of each detail, so that no caption is a complete list


def celeba_caption(has: Set[str], seed: int, picture: str) -> str:
    """The same caption for the same (seed, picture) everywhere.

    Args:
        has: names of the attributes that the picture has.
    """
    draw = _Draw(seed, picture)
    noun = draw.of(_MEN if "Male" in has else _WOMEN)
    if "Young" in has and draw.happens(0.5):
        noun = f"young {noun}"
    features = [*_hair(has, draw), *(b for n, b in _BEARDS.items() if n in has and draw.happens())]
    described = f"{draw.of(_SHOTS)} a {noun}" + (f" with {_listed(features)}" if features else "")
    worn = [draw.of(texts) for name, texts in _WORN.items() if name in has and draw.happens()]
    parts = [described, f"wearing {_listed(worn)}" if worn else "", _expression(has, draw)]
    if "Blurry" in has and draw.happens():
        parts.append("blurry")
    return ", ".join(part for part in parts if part)


class _Draw:
    """Choices made from uniform draws alone, whose sequence every Python version keeps."""

    def __init__(self, seed: int, picture: str):
        self._uniform = random.Random(f"{seed} {picture}").random

    def of(self, options: tuple[str, ...]) -> str:
        return options[int(self._uniform() * len(options))]

    def happens(self, chance: float = _MENTION) -> bool:
        return self._uniform() < chance


def _hair(has: Set[str], draw: _Draw) -> list[str]:
    if not draw.happens():
        return []
    if "Bald" in has:
        return ["a bald head"]
    words = [next((w for n, w in kinds.items() if n in has), "") for kinds in (_TEXTURES, _COLOURS)]
    hair = [" ".join([w for w in words if w] + ["hair"])] if any(words) else []
    return [*hair, "bangs"] if "Bangs" in has else hair


def _expression(has: Set[str], draw: _Draw) -> str:
    if "Smiling" in has:
        return draw.of(("smiling", "with a smile")) if draw.happens() else ""
    if "Mouth_Slightly_Open" in has:
        return "with the mouth slightly open" if draw.happens() else ""
    return "with a neutral expression" if draw.happens(0.3) else ""


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
