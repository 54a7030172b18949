"""Scores of drawn pictures, by the scorer and the world's truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...demo_world import world
from ...evaluation.metrics.alignment import copy_paste
from ..scorer import Judgement
from .people import People


class Scores(NamedTuple):
    """One value for each picture [n].

    Attributes:
        accuracy: share of the attributes, of those that the wanted view shows, that are right.
        similarity: cosine to the mean embedding of four real views of the person.
        caption: share of the view factors that the wanted view's caption tells that are right.
        copying: nearer to the nearest reference (1) or to the real picture of that view (-1)?
            arXiv 2510.14975, equation 2. NaN without references.
    """

    accuracy: Tensor
    similarity: Tensor
    caption: Tensor
    copying: Tensor


def scores(
    said: Judgement, wanted: Tensor, people: People, real: Judgement, references: int
) -> Scores:
    """Score pictures.

    Args:
        said: the scorer on the n pictures.
        wanted: int64 [n], rows of the views that were to be drawn.
        people: whom.
        real: the scorer on all of `people.pictures`.
        references: number of references given; 0: none.
    """
    pictures = people.pictures
    truth = torch.tensor(pictures.attributes)[wanted]
    seen = torch.tensor(pictures.visible)[wanted].float()
    right = torch.stack([x.argmax(1) for x in said.attributes], dim=1) == truth
    accuracy = (right * seen).sum(1) / seen.sum(1)

    who = wanted // pictures.views
    likeness = torch.nn.functional.normalize(real.identity[people.real].mean(1), dim=1)
    similarity = (said.identity * likeness[who]).sum(1)

    factors = torch.tensor(pictures.factors)[wanted]
    drawn = torch.stack([x.argmax(1) for x in said.factors], dim=1) == factors
    told = torch.tensor([told_factors(pictures.captions[k], pictures.factors[k]) for k in wanted])
    caption = (drawn * told).sum(1) / told.sum(1)

    copying = torch.full((len(wanted),), torch.nan, dtype=torch.float64)
    for i in range(len(wanted) if references else 0):
        given = real.identity[people.references[who[i], :references]]
        copying[i] = copy_paste(said.identity[i : i + 1], given, real.identity[wanted[i]][None])[0]
    return Scores(accuracy, similarity, caption, copying)


def told_factors(caption: str, values: Sequence[int]) -> list[bool]:
    """Which of world.VIEW_FACTORS a caption tells, if only by not mentioning a hat, say.

    Not counted is the expression, of which the scorer reads half in real pictures.
    """
    names = zip(world.VIEW_FACTORS.items(), values, strict=True)
    scene = {name: options[value] for (name, options), value in names}
    if_there = {
        "expression": False,
        "light": any(
            words in caption for words in world.PHRASES.get(("light", scene["light"]), ())
        ),
        "hat colour": scene["hat"] != "none",
        "eyes": scene["eyewear"] == "none",
        "scarf colour": scene["lower face"] == "scarf",
        "shirt": f"{scene['shirt']} shirt" in caption or f"dressed in {scene['shirt']}" in caption,
    }
    return [if_there.get(name, True) for name in world.VIEW_FACTORS]
