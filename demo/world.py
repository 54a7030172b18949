"""A world of drawn portraits with known truth, to train small models on a CPU.

An identity is what stays the same in all pictures of a person; a view is everything else. Every
view hides a part of the identity, so that no single picture tells everything. All is drawn from
seeded generators by index: the same on every platform, in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .portrait.canvas import Jitter, Traits
from .portrait.colours import (
    BACKGROUNDS,
    FRINGES,
    GLASSES,
    HAIR,
    IRIS,
    JAWS,
    LIGHTS,
    LIPS,
    SKIN,
)
from .portrait.render import render

WEIGHTS_FOLDER = Path(__file__).with_name("weights")  # of the models that know this world

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "skin": tuple(SKIN),
    "face": tuple(JAWS),
    "hairstyle": ("bald", "short", "side part", "bob", "long", "curly", "bun", "spiky"),
    "hair colour": tuple(HAIR),
    "eye shape": ("round", "almond", "hooded"),
    "eye colour": tuple(IRIS),
    "brows": ("straight", "arched", "bushy", "slanted"),
    "nose": ("button", "long", "wide", "pointed"),
    "mouth": tuple(LIPS),
    "ears": ("small", "large", "pointed"),
    "earrings": ("none", "hoops", "studs"),
    "beard": ("none", "moustache", "goatee", "full", "stubble"),
    "mark": ("none", "freckles", "left mole", "right mole", "scar"),
    "glasses": ("none", *GLASSES),
    "cheeks": ("none", "blush", "wrinkles"),
    "necklace": ("none", "beads", "choker"),
}

VIEW_FACTORS: dict[str, tuple[str, ...]] = {
    "pose": ("ahead", "left", "right"),
    "expression": ("neutral", "smiling", "laughing", "sad"),
    "background": tuple(BACKGROUNDS),
    "light": tuple(LIGHTS),
    "hat": ("none", "cap", "beanie", "hood", "headphones"),
    "hat colour": ("red", "blue", "green", "yellow", "black"),
    "eyewear": ("none", "sunglasses", "goggles"),
    "eyes": ("open", "closed"),
    "lower face": ("none", "scarf", "mask", "hand", "cup"),
    "scarf colour": ("red", "blue", "green", "yellow", "purple"),
    "crop": ("wide", "close"),
    "shirt": ("red", "blue", "green", "yellow", "purple", "white"),
}

# Per cent of the values before views that hide too little or too much are drawn again; factors
# not named here are uniform. Tuned to the figures in tests/test_world.py.
WEIGHTS: dict[str, tuple[int, ...]] = {
    "pose": (34, 33, 33),
    "expression": (28, 28, 24, 20),
    "light": (40, 15, 15, 15, 15),
    "hat": (25, 18, 17, 15, 25),
    "eyewear": (56, 25, 19),
    "eyes": (84, 16),
    "lower face": (42, 18, 17, 12, 11),
    "crop": (84, 16),
}
LEAST_HIDDEN, MOST_HIDDEN = 0.20, 0.64

TRAINING = range(0, 100_000)
HELD_OUT = range(100_000, 200_000)

_IDENTITY_SALT, _VIEW_SALT, _WORDING_SALT = 7001, 7002, 7003


@dataclass(frozen=True)
class Identity:
    """A person: values[k] indexes the values of the k-th attribute of ATTRIBUTES."""

    index: int
    values: tuple[int, ...]
    traits: Traits

    @property
    def attributes(self) -> dict[str, str]:
        """Attribute -> the name of its value."""
        return _named(ATTRIBUTES, self.values)


@dataclass(frozen=True)
class View:
    """A situation: values[k] indexes the values of the k-th factor of VIEW_FACTORS."""

    values: tuple[int, ...]
    jitter: Jitter

    @property
    def factors(self) -> dict[str, str]:
        """View factor -> the name of its value."""
        return _named(VIEW_FACTORS, self.values)


def _named(names: dict[str, tuple[str, ...]], values: tuple[int, ...]) -> dict[str, str]:
    return {name: names[name][value] for name, value in zip(names, values, strict=True)}


def _generator(*seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(list(seed)))


def _between(generator: np.random.Generator, low: float, high: float) -> float:
    """A number in [low, high], out of integers: the same on every platform."""
    return low + (high - low) * int(generator.integers(0, 1001)) / 1000


def identity(index: int) -> Identity:
    """Returns the person of that index; all attributes are uniform and independent."""
    generator = _generator(_IDENTITY_SALT, index)
    values = tuple(int(generator.integers(0, len(names))) for names in ATTRIBUTES.values())
    return Identity(index, values, Traits(*(_between(generator, -1, 1) for _ in range(7))))


def _factor(generator: np.random.Generator, name: str) -> int:
    if name not in WEIGHTS:
        return int(generator.integers(0, len(VIEW_FACTORS[name])))
    left = int(generator.integers(0, sum(WEIGHTS[name])))
    for value, weight in enumerate(WEIGHTS[name]):
        if left < weight:
            return value
        left -= weight
    raise AssertionError(name)


def _jitter(generator: np.random.Generator) -> Jitter:
    return Jitter(
        scale=_between(generator, 0.97, 1.03),
        shift=(_between(generator, -0.018, 0.018), _between(generator, -0.012, 0.018)),
        tilt=_between(generator, -0.035, 0.035),
        noise=_between(generator, 0.0, 4.0),
        blur=max(0.0, _between(generator, -0.12, 0.12)),
        seed=int(generator.integers(0, 2**31)),
    )


def view(identity_index: int, view_index: int) -> View:
    """Returns a view of that person which hides 20 % to 64 % of the attributes."""
    who = identity(identity_index)
    generator = _generator(_VIEW_SALT, identity_index, view_index)
    while True:
        values = tuple(_factor(generator, name) for name in VIEW_FACTORS)
        drawn = View(values, _jitter(generator))
        hidden = 1 - sum(visible(who, drawn)) / len(ATTRIBUTES)
        if LEAST_HIDDEN <= hidden <= MOST_HIDDEN:
            return drawn


def visible(identity: Identity, view: View) -> tuple[bool, ...]:
    """Tells for each attribute, in the order of ATTRIBUTES, whether the view shows its value.

    An attribute is hidden when other values of it would give the same picture. So a mole on the
    far cheek is hidden, and so is its absence there; freckles, on both cheeks, are not.
    """
    look, scene = identity.attributes, view.factors
    return tuple(name not in _hidden(look, scene) for name in ATTRIBUTES)


def _hidden(look: dict[str, str], scene: dict[str, str]) -> set[str]:
    hat, lower, close = scene["hat"], scene["lower face"], scene["crop"] == "close"
    hidden: set[str] = set()
    style = look["hairstyle"]
    if hat in ("beanie", "hood"):
        hidden |= {"hairstyle"}
    if hat == "cap" and (close or style not in ("bob", "long", "curly")):
        hidden |= {"hairstyle"}
    if close and style not in FRINGES:
        hidden |= {"hairstyle"}
    if hat in ("hood", "headphones") or close:
        hidden |= {"ears", "earrings"}
    if hat in ("cap", "beanie") or scene["eyewear"] == "goggles":
        hidden |= {"brows"}
    if scene["eyewear"] != "none":
        hidden |= {"eye shape", "eye colour", "glasses"}
    if scene["eyes"] == "closed":
        hidden |= {"eye shape", "eye colour"}
    hidden |= _hidden_below(look, lower, hat, close)
    hidden |= _hidden_by_turning(look, scene["pose"])
    no_hair = "hairstyle" in hidden or style == "bald"
    no_beard = "beard" in hidden or look["beard"] == "none"
    if no_hair and no_beard and "brows" in hidden:
        hidden |= {"hair colour"}
    return hidden


def _hidden_below(look: dict[str, str], lower: str, hat: str, close: bool) -> set[str]:
    hidden: set[str] = set()
    if lower in ("scarf", "mask"):
        hidden |= {"mouth", "beard", "nose", "face", "cheeks", "mark"}
    if lower in ("hand", "cup"):
        hidden |= {"mouth"}
        if look["beard"] in ("none", "moustache", "goatee"):
            hidden |= {"beard"}
    if hat == "hood":  # closed below the chin
        hidden |= {"face"}
        if look["beard"] in ("none", "goatee") or lower in ("hand", "cup"):
            hidden |= {"beard"}
    if hat == "hood" or lower == "scarf" or close:
        hidden |= {"necklace"}
    return hidden


def _hidden_by_turning(look: dict[str, str], pose: str) -> set[str]:
    unseen = {
        "ahead": (),
        "left": ("none", "left mole"),
        "right": ("none", "right mole", "scar"),
    }[pose]
    return {"mark"} if look["mark"] in unseen else set()


SUBJECTS = ("a photo of a person", "a portrait of a person", "a picture of a person", "a person")
CLOSE_SUBJECTS = ("a close-up of a person", "a close photo of a person", "a person, close-up")
Pick = Callable[[tuple[str, ...]], str]  # one of the options

PHRASES: dict[tuple[str, str], tuple[str, ...]] = {
    ("pose", "ahead"): ("looking ahead", "facing the camera", "seen from the front"),
    ("pose", "left"): ("looking left", "facing left", "turned to the left"),
    ("pose", "right"): ("looking right", "facing right", "turned to the right"),
    ("expression", "neutral"): ("with a calm look", "neutral", "calm"),
    ("expression", "smiling"): ("smiling", "with a smile"),
    ("expression", "laughing"): ("laughing", "laughing out loud"),
    ("expression", "sad"): ("sad", "with a sad look"),
    ("light", "warm"): ("warm light", "in warm light", "in the evening sun"),
    ("light", "cold"): ("cold light", "in cold light"),
    ("light", "dim"): ("dim light", "in the dark", "at night"),
    ("light", "shadow"): ("in side light", "with a shadow on the right"),
    ("eyewear", "sunglasses"): ("sunglasses", "dark sunglasses"),
    ("eyewear", "goggles"): ("ski goggles", "goggles"),
    ("eyes", "closed"): ("with closed eyes", "eyes closed"),
    ("lower face", "mask"): ("a medical mask", "a face mask"),
    ("lower face", "hand"): ("with a hand over the mouth", "hiding the mouth behind a hand"),
    ("lower face", "cup"): ("drinking from a cup", "with a cup in front of the mouth"),
    ("background", "sunset"): ("at sunset", "in front of a sunset sky"),
    ("background", "stripes"): ("in front of a striped wall", "striped background"),
    ("background", "dots"): ("in front of a dotted wall", "dotted background"),
}
HAT_WORDS: dict[str, tuple[str, ...]] = {
    "cap": ("cap", "baseball cap"),
    "beanie": ("beanie", "knitted beanie"),
    "hood": ("hood",),
    "headphones": ("headphones",),
}


def caption(view: View, wording: int = 0) -> str:
    """Describes the view, never the identity; `wording` picks words, order and what is told."""
    scene = view.factors
    generator = _generator(_WORDING_SALT, wording, *view.values)

    def pick(options: tuple[str, ...]) -> str:
        return options[int(generator.integers(0, len(options)))]

    def tell(per_cent: int) -> bool:
        return int(generator.integers(0, 100)) < per_cent

    subject = pick(CLOSE_SUBJECTS if scene["crop"] == "close" else SUBJECTS)
    parts = _loose_parts(scene, pick, tell)
    worn = _worn(scene, pick)
    if worn:
        parts.append(f"{pick(('wearing', 'with'))} {' and '.join(worn)}")
    order = generator.permutation(len(parts))
    text = ", ".join(parts[int(k)] for k in order)
    ending = _background(scene["background"], pick)
    return f"{subject}, {text}, {ending}" if tell(75) else f"{subject}, {ending}, {text}"


def _loose_parts(scene: dict[str, str], pick: Pick, tell: Callable[[int], bool]) -> list[str]:
    parts = []
    if scene["pose"] != "ahead" or tell(40):
        parts.append(pick(PHRASES["pose", scene["pose"]]))
    if tell(90 if scene["expression"] != "neutral" else 35):
        parts.append(pick(PHRASES["expression", scene["expression"]]))
    if scene["light"] != "plain" and tell(85):
        parts.append(pick(PHRASES["light", scene["light"]]))
    if scene["eyes"] == "closed" and scene["eyewear"] == "none":
        parts.append(pick(PHRASES["eyes", "closed"]))
    if scene["lower face"] in ("hand", "cup"):
        parts.append(pick(PHRASES["lower face", scene["lower face"]]))
    if scene["crop"] == "wide" and tell(70):
        color = scene["shirt"]
        parts.append(pick((f"{color} shirt", f"dressed in {color}", f"in a {color} shirt")))
    return parts


def _worn(scene: dict[str, str], pick: Pick) -> list[str]:
    worn = []
    if scene["hat"] != "none":
        article = "" if scene["hat"] == "headphones" else "a "
        worn.append(f"{article}{scene['hat colour']} {pick(HAT_WORDS[scene['hat']])}")
    if scene["eyewear"] != "none":
        worn.append(pick(PHRASES["eyewear", scene["eyewear"]]))
    if scene["lower face"] == "mask":
        worn.append(pick(PHRASES["lower face", "mask"]))
    if scene["lower face"] == "scarf":
        worn.append(f"a {scene['scarf colour']} scarf")
    return worn


def _background(name: str, pick: Pick) -> str:
    if ("background", name) in PHRASES:
        return pick(PHRASES["background", name])
    return pick((f"in front of a {name} wall", f"{name} background", f"{name} wall behind"))


def draw(identity: Identity, view: View, size: int = 128) -> Image.Image:
    """Draws the person in that situation.

    Args:
        identity: who.
        view: the situation.
        size: pixels of each side.

    Returns:
        An RGB picture, size x size.
    """
    return render(identity.attributes, identity.traits, view.factors, view.jitter, size)
