"""Pictures drawn with an adapter in training, beside its references and the hidden truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...figures.sheets import contact_sheet
from ...models.adapter import MultiIPAdapter
from ...models.references import ReferenceEmbeds
from ..host.drawing import Drawing, draw, encode_prompt
from ..host.images import to_picture
from ..host.memory import LOADING
from ..steering.key_values import LoadedAdapter
from ..steering.steer import Steering, steer

COUNTS = (1, 2, 4)
STEPS, CFG = 20, 5.0


@dataclass(frozen=True)
class PreviewCase:
    """One held-out identity: its references [N, H, W, 3], the target [H, W, 3], the caption."""

    references: Tensor
    embeds: ReferenceEmbeds
    target: Tensor
    caption: str


class Preview:
    """Draws the same cases with the same seeds every time."""

    def __init__(self, model: Any, clip: Any, vae: Any, cases: Sequence[PreviewCase], seed: int):
        self.model, self.clip, self.vae = model, clip, vae
        self.cases, self.seed = cases, seed
        self._without: dict[int, Tensor] = {}  # these do not depend on the adapter

    def sheet(self, adapter: MultiIPAdapter) -> Image.Image:
        """Per case a row: references, the target, and pictures with 0, 1, 2, 4 references."""
        with LOADING, torch.inference_mode():
            loaded = LoadedAdapter(adapter, "preview")
            rows = [self._row(loaded, number) for number in range(len(self.cases))]
        return labelled_sheet(rows)

    def _row(self, loaded: LoadedAdapter, number: int) -> list[tuple[str, Tensor]]:
        case = self.cases[number]
        if number not in self._without:
            self._without[number] = self._draw(self.model, case)
        row = [(f"reference {i + 1}", x) for i, x in enumerate(case.references[: max(COUNTS)])]
        row.append(("target", case.target))
        row.append(("without", self._without[number]))
        for count in COUNTS:
            if count > case.embeds.num_references:
                break
            some = case.embeds.first(count)
            model = steer(self.model, loaded, some, Steering())
            row.append((f"N = {count}", self._draw(model, case)))
        return row

    def _draw(self, model: Any, case: PreviewCase) -> Tensor:
        """[H, W, 3] in 0..1."""
        positive, negative = encode_prompt(self.clip, case.caption), encode_prompt(self.clip, "")
        height, width = case.target.shape[:2]
        how = Drawing(width, height, STEPS, CFG)
        return draw(model, self.vae, positive, negative, how, self.seed)


def labelled_sheet(rows: Sequence[Sequence[tuple[str, Tensor]]]) -> Image.Image:
    """Labelled pictures [H, W, 3], one row for each case."""
    cells = [[to_picture(pixels) for _, pixels in row] for row in rows]
    return contact_sheet(cells, captions=[[label for label, _ in row] for row in rows])
