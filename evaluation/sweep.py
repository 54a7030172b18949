"""What a sweep draws: identities and prompts, each with every weight and number of references."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..pictures.index import PictureIndex

_STREAM = 21
_SLUG = re.compile(r"[^\w\-]+")


@dataclass(frozen=True)
class Case:
    """One identity of the sweep; picture numbers of the dataset.

    Attributes:
        references: as many as the largest number of references asked for; fewer are the first of
            them, so that N references contain those of every smaller N.
        target: a further picture, which the model does not see; None where there is none.
    """

    identity: str
    references: tuple[int, ...]
    target: int | None


@dataclass(frozen=True)
class Shot:
    """One picture to draw."""

    case: int
    prompt: int
    weight: float
    count: int
    seed: int

    @property
    def name(self) -> str:
        """Name of its file, without suffix."""
        return f"p{self.prompt:02}_w{self.weight:g}_n{self.count}_s{self.seed}"


def choose_cases(index: PictureIndex, identities: int, references: int, seed: int) -> list[Case]:
    """Identities of a dataset, and their pictures in an order, by the seed.

    Raises:
        ValueError: no identity has so many pictures.
    """
    counts = index.counts()
    usable = np.flatnonzero(counts >= references)
    if not len(usable):
        raise ValueError(
            f"Got {references} references; the largest identity of the dataset has "
            f"{int(counts.max(initial=0))} pictures. Ask for fewer, or add pictures."
        )
    random = np.random.Generator(np.random.Philox(key=[seed, _STREAM]))
    cases = []
    for number in random.permutation(usable)[:identities]:
        pictures = [int(n) for n in random.permutation(np.array(index.pictures_of(int(number))))]
        target = pictures[references] if len(pictures) > references else None
        cases.append(Case(index.identities[int(number)], tuple(pictures[:references]), target))
    return cases


def shots(
    cases: int, prompts: int, weights: Sequence[float], counts: Sequence[int], seeds: Sequence[int]
) -> Iterator[Shot]:
    """All pictures of a sweep, identity by identity."""
    for case in range(cases):
        for prompt in range(prompts):
            for seed in seeds:
                for count in counts:
                    for weight in weights:
                        yield Shot(case, prompt, weight, count, seed)


def parse_numbers(text: str, what: str, low: float, high: float, whole: bool = False) -> list:
    """Numbers separated by commas, without repetitions, in order.

    Raises:
        ValueError: none, no number, or one outside of low..high.
    """
    kind = int if whole else float
    try:
        numbers = [kind(word) for word in text.replace(";", ",").split(",") if word.strip()]
    except ValueError:
        numbers = []
    if not numbers or not all(low <= n <= high for n in numbers):
        raise ValueError(
            f"Got {what} {text!r}; expected {'whole ' if whole else ''}numbers from {low:g} to "
            f"{high:g} separated by commas, such as '{'1, 2, 4' if whole else '0, 0.5, 1'}'."
        )
    return sorted(set(numbers))


def folder_name(number: int, identity: str) -> str:
    """A folder for an identity, whatever it is called."""
    return f"{number:03}_{_SLUG.sub('_', identity)[:60].strip('_') or 'identity'}"
