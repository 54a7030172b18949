"""Pictures and words as CLIP sees them -> the word that fits the pictures best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

WORDS = "girl, man, boy, woman, baby, person"
TEMPLATE = "a photo of a {}"


class WordScore(NamedTuple):
    """A word and the mean cosine of the pictures to its sentence."""

    word: str
    similarity: float


def sentences_of(words: str, template: str) -> dict[str, str]:
    """Sentence of each word, in the order of the list.

    Raises:
        ValueError: no word, or a template without a place for it.
    """
    listed = [" ".join(word.split()) for word in words.replace("\n", ",").split(",")]
    listed = [word for word in listed if word]
    if not listed:
        raise ValueError(f"Got no words; expected a list such as '{WORDS}'.")
    if template.count("{}") != 1:
        raise ValueError(
            f"Got the template {template!r}; expected a sentence with one {{}} where the word "
            f"goes, such as '{TEMPLATE}'."
        )
    return {word: template.replace("{}", word) for word in listed}


def rank_words(words: Sequence[str], images: Tensor, texts: Tensor) -> list[WordScore]:
    """Words by the mean cosine of the images [N, D] to their texts [W, D], best first."""
    similarity = F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    means = similarity.double().mean(0).tolist()
    ranked = sorted(zip(words, means, strict=True), key=lambda pair: -pair[1])
    return [WordScore(*pair) for pair in ranked]
