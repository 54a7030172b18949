"""Scores of drawn pictures, by the scorer and the world's truth."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...evaluation.alignment import copy_paste
from .. import world
from ..scorer import Judgement
from .people import TOLD, People


class Scores(NamedTuple):
    """One value for each picture [n].

    Attributes:
        accuracy: share of the attributes, of those that the wanted view shows, that are right.
        similarity: cosine to the mean embedding of four real views of the person.
        caption: share of the view factors that every caption tells that are right.
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

    told = [list(world.VIEW_FACTORS).index(name) for name in TOLD]
    factors = torch.tensor(pictures.factors)[wanted]
    caption = torch.stack([said.factors[k].argmax(1) == factors[:, k] for k in told], dim=1)

    copying = torch.full((len(wanted),), torch.nan, dtype=torch.float64)
    for i in range(len(wanted) if references else 0):
        given = real.identity[people.references[who[i], :references]]
        copying[i] = copy_paste(said.identity[i : i + 1], given, real.identity[wanted[i]][None])[0]
    return Scores(accuracy, similarity, caption.float().mean(1), copying)
