"""Held-out identities: their references, the views to be drawn, and real views to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...demo_world import world
from ..build.pictures import Pictures, drawn

REFERENCES, PROMPTS, REAL = 8, 3, 4  # views of each identity, in this order
FEATURED, FEATURED_FIRST, FEATURED_VIEWS = 2000, 10_000, 2  # real pictures for FID and KID


@dataclass(frozen=True)
class People:
    """P identities that no model has seen.

    Attributes:
        pictures: all views; row p * views + k is view k of person p.
    """

    pictures: Pictures

    @property
    def count(self) -> int:
        """Number of identities."""
        return len(self.pictures) // self.pictures.views

    def rows(self, first: int, count: int) -> Tensor:
        """Rows of some views of everybody, int64 [P, count]."""
        views = self.pictures.views
        return torch.arange(self.count)[:, None] * views + torch.arange(first, first + count)

    @property
    def references(self) -> Tensor:
        """Rows of the references [P, 8]; the first N are used."""
        return self.rows(0, REFERENCES)

    @property
    def prompts(self) -> Tensor:
        """Rows of the views to be drawn [P, 3], one for each seed."""
        return self.rows(REFERENCES, PROMPTS)

    @property
    def real(self) -> Tensor:
        """Rows of further real views [P, 4], which give the identity's embedding."""
        return self.rows(REFERENCES + PROMPTS, REAL)


def other_people(folder: Path) -> Pictures:
    """Real pictures of people who are not in the study, for FID and KID."""
    begin = world.HELD_OUT.start + FEATURED_FIRST
    return drawn(folder, "other_people", begin, FEATURED, FEATURED_VIEWS)


def held_out(folder: Path, count: int, first: int) -> People:
    """`count` held-out identities from number `first` on, drawn into `folder`."""
    begin = world.HELD_OUT.start + first
    views = REFERENCES + PROMPTS + REAL
    return People(drawn(folder, f"held_out_{first}", begin, count, views))
