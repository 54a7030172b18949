"""Measures all cells; each is written when it is done, so that a study can be interrupted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ...models.adapter import MultiIPAdapter
from ...models.checkpoint import load_adapter
from ...models.files import write_safetensors
from ...nodes import demo_bundle
from ...nodes.training_backbone import FEATURES, picture_encoder, training_backbone
from ...training.config import TrainingConfig
from ..scorer import Judgement, Scorer, bundled_scorer, judge
from .cells import BASE, DESCRIBED, RECODED, Cell, grid
from .drawing import Studio
from .judging import scores
from .people import People, held_out

PEOPLE = 256
_SHOWN = 8  # people on the sheet of a cell


@contextmanager
def studio(people: People) -> Iterator[tuple[Studio, Judgement, Scorer]]:
    """The demo's models, and what the scorer says of the real pictures."""
    model, clip = demo_bundle.trained_unet(), demo_bundle.trained_clip()
    vae, vision = demo_bundle.trained_vae(), demo_bundle.trained_clip_vision()
    scorer = bundled_scorer()
    pixels = torch.from_numpy(people.pictures.pixels.copy())
    real = judge(scorer, pixels)
    encode = picture_encoder(model, vae, vision, "centre crop")
    parts = [encode(part, FEATURES) for part in pixels.split(64)]
    features = {name: torch.cat([part[name] for part in parts]) for name in FEATURES}
    config = TrainingConfig(precision="fp32")
    with (
        torch.inference_mode(False),
        training_backbone(model, clip, vision, config, pixels.shape[1]) as backbone,
    ):
        yield Studio(model, vae, backbone, people, features), real, scorer


def measure(folder: Path, adapters: Path) -> dict[Cell, dict[str, Tensor]]:
    """Draw and score what is not measured yet; returns the tensors of all cells.

    Args:
        folder: for the tensors and a sheet of each cell.
        adapters: the trained adapters, <name>.safetensors.
    """
    people = held_out(folder / "pictures", PEOPLE)
    cells = grid()
    missing = [cell for cell in cells if not _path(folder, cell).is_file()]
    if missing:
        loaded: dict[str, MultiIPAdapter | None] = dict.fromkeys((BASE, DESCRIBED, RECODED))
        with studio(people) as (drawing, real, scorer):
            write_safetensors(folder / "real.safetensors", _tensors(real), {})
            for number, cell in enumerate(missing, 1):
                print(f"{number} of {len(missing)}: {_name(cell)}", flush=True)
                if cell.adapter not in loaded:
                    loaded[cell.adapter] = load_adapter(adapters / f"{cell.adapter}.safetensors")
                tensors = one_cell(folder, cell, loaded[cell.adapter], drawing, real, scorer)
                write_safetensors(_path(folder, cell), tensors, {})
    return {cell: load_file(_path(folder, cell)) for cell in cells}


def one_cell(
    folder: Path,
    cell: Cell,
    adapter: MultiIPAdapter | None,
    drawing: Studio,
    real: Judgement,
    scorer: Scorer,
) -> dict[str, Tensor]:
    """Scores [P * 3] and what the scorer says of each picture."""
    people = drawing.people
    wanted = people.prompts.flatten()
    pictures = drawing.draw(cell, adapter, wanted)
    said = judge(scorer, pictures)
    found = scores(said, wanted, people, real, cell.references if cell.weight else 0)
    write_sheet(sheet_path(folder, cell), pictures, people, cell.references)
    return {**found._asdict(), **_tensors(said)}


def ceiling(folder: Path) -> dict[str, Tensor]:
    """The same scores of the real pictures of the wanted views."""
    people = held_out(folder / "pictures", PEOPLE)
    found = load_file(folder / "real.safetensors")
    real = _judgement(found)
    wanted = people.prompts.flatten()
    said = Judgement(
        real.features[wanted],
        [x[wanted] for x in real.attributes],
        [x[wanted] for x in real.factors],
        real.identity[wanted],
    )
    return {**scores(said, wanted, people, real, 0)._asdict(), **_tensors(said)}


def _tensors(said: Judgement) -> dict[str, Tensor]:
    lists: Mapping[str, list[Tensor]] = {"attribute": said.attributes, "factor": said.factors}
    columns = {f"{name}.{k}": x for name, each in lists.items() for k, x in enumerate(each)}
    return {"features": said.features, "identity": said.identity} | columns


def _judgement(found: Mapping[str, Tensor]) -> Judgement:
    def column(name: str) -> list[Tensor]:
        return [found[f"{name}.{k}"] for k in range(sum(key.startswith(name) for key in found))]

    return Judgement(found["features"], column("attribute"), column("factor"), found["identity"])


def _name(cell: Cell) -> str:
    return f"{cell.adapter}-{cell.aggregation}-n{cell.references}-w{cell.weight:g}"


def _path(folder: Path, cell: Cell) -> Path:
    return folder / "cells" / f"{_name(cell)}.safetensors"


def sheet_path(folder: Path, cell: Cell) -> Path:
    """Where a cell's sheet is."""
    return folder / "sheets" / f"{_name(cell)}.png"


def write_sheet(path: Path, pictures: Tensor, people: People, references: int) -> None:
    """For some people: the references, what was drawn, and the real picture of that view."""
    size, views = pictures.shape[1], people.pictures.views
    columns, lines = references + 2 * len(people.prompts[0]), min(_SHOWN, people.count)
    sheet = Image.new("RGB", (columns * size, lines * size), "white")
    for p in range(lines):
        shown = [people.pictures.pixels[p * views + k] for k in range(references)]
        for seed, row in enumerate(people.prompts[p]):
            drawn = pictures[p * len(people.prompts[0]) + seed].numpy()
            shown += [drawn, people.pictures.pixels[row]]
        for column, picture in enumerate(shown):
            sheet.paste(Image.fromarray(picture), (column * size, p * size))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
