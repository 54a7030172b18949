"""Describes the person of a picture too: what the base model reads besides captions of the view.

Large text-to-image models know words for hair and eyes from the texts of the web. Without such
words, nothing that reaches the UNet through its cross-attention could ever tell who is to be drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import world

_NOUNS = {
    "skin": "skin",
    "face": "face",
    "hairstyle": "hair",
    "hair colour": "hair",
    "eye shape": "eyes",
    "eye colour": "eyes",
    "brows": "brows",
    "nose": "nose",
    "mouth": "lips",
    "ears": "ears",
    "earrings": "earrings",
    "glasses": "glasses",
    "necklace": "necklace",
}
_PHRASES = {
    ("hairstyle", "bald"): "bald",
    ("beard", "none"): "no beard",
    ("beard", "full"): "full beard",
    ("mark", "none"): "clear skin",
    ("cheeks", "none"): "smooth cheeks",
}
_SALT = 7004
MOST = 10  # more may not fit the 77 tokens of SD1.x


def phrases(values: Sequence[int]) -> list[str]:
    """One for each attribute of an identity, such as 'curly hair'."""
    named = ((n, v[i]) for (n, v), i in zip(world.ATTRIBUTES.items(), values, strict=True))
    return [_phrase(name, value) for name, value in named]


def _phrase(name: str, value: str) -> str:
    value_said = "no" if value == "none" else value
    plain = f"{value_said} {_NOUNS[name]}" if name in _NOUNS else value
    return _PHRASES.get((name, value), plain)


def told(visible: Sequence[bool], seed: int) -> np.ndarray:
    """Columns of the attributes to be told: the visible ones in any order, as many as fit."""
    generator = np.random.Generator(np.random.PCG64([_SALT, seed]))
    return generator.permutation(np.flatnonzero(visible))[:MOST]


def described(caption: str, values: Sequence[int], columns: Sequence[int]) -> str:
    """The caption of a view with what is told of the person."""
    said = phrases(values)
    return ", ".join([caption, *(said[k] for k in columns)])
