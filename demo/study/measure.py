"""Measures all cells; each is written when it is done, so that a study can be interrupted."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ...demo_world.world import WEIGHTS_FOLDER
from ...files.tensors import write_safetensors
from ...models.adapter import MultiIPAdapter
from ...models.checkpoint import load_adapter
from ...nodes.binding.backbone import training_backbone
from ...nodes.binding.encoders import FEATURES, picture_encoder
from ...nodes.demo import bundle as demo_bundle
from ...training.config import TrainingConfig
from ..prompt import STEPS
from ..scorer import Judgement, Scorer, bundled_scorer, judge
from .cells import BASE, DESCRIBED, RECODED, Cell, Part, without
from .drawing import Studio
from .judging import scores
from .people import People, held_out, other_people

PEOPLE = 256
_MADE_OF = "made_of"
_SHOWN = 8  # people on the sheet of a cell


@contextmanager
def studio(people: People, cfg: float) -> Iterator[tuple[Studio, Judgement, Scorer]]:
    """The demo's models, and what the scorer says of the real pictures."""
    model, clip = demo_bundle.trained_unet(), demo_bundle.trained_clip()
    vae, vision = demo_bundle.trained_vae(), demo_bundle.trained_clip_vision()
    scorer = bundled_scorer()
    pixels = torch.from_numpy(people.pictures.pixels.copy())
    real = judge(scorer, pixels)
    encode = picture_encoder(model, vae, vision, "crop")
    parts = [encode(part, FEATURES) for part in pixels.split(64)]
    features = {name: torch.cat([part[name] for part in parts]) for name in FEATURES}
    config = TrainingConfig(precision="fp32")
    with (
        torch.inference_mode(False),
        training_backbone(model, clip, vision, config, pixels.shape[1]) as backbone,
    ):
        yield Studio(model, vae, backbone, people, features, cfg), real, scorer


def measure(part: Part, folder: Path, adapters: Path) -> dict[Cell, Judgement]:
    """Draw and judge what is not measured yet; returns what the scorer says, for all cells.

    Args:
        part: of the study.
        folder: for the judgements and a sheet of each cell.
        adapters: the trained adapters, <name>.safetensors.
    """
    people = held_out(folder / "pictures", PEOPLE, part.first)
    shown = checksum(people)
    made_of = {cell: fingerprint(cell, adapters, shown, part.cfg) for cell in part.cells}
    missing = [cell for cell in made_of if _made_of(_path(folder, cell)) != made_of[cell]]
    if missing:
        loaded: dict[str, MultiIPAdapter | None] = dict.fromkeys((BASE, DESCRIBED, RECODED))
        with studio(people, part.cfg) as (drawing, real, scorer):
            write_safetensors(folder / "real.safetensors", _tensors(real), {})
            for number, cell in enumerate(missing, 1):
                print(f"{number} of {len(missing)}: {_name(cell)}", flush=True)
                if cell.adapter not in loaded:
                    loaded[cell.adapter] = load_adapter(adapters / f"{cell.adapter}.safetensors")
                said = one_cell(folder, cell, loaded[cell.adapter], drawing, scorer)
                about = {_MADE_OF: made_of[cell]}
                write_safetensors(_path(folder, cell), _tensors(said), about)
    return {cell: _judgement(load_file(_path(folder, cell))) for cell in made_of}


def one_cell(
    folder: Path, cell: Cell, adapter: MultiIPAdapter | None, drawing: Studio, scorer: Scorer
) -> Judgement:
    """What the scorer says of the P * 3 pictures of a cell."""
    people = drawing.people
    pictures = drawing.draw(cell, adapter, people.prompts.flatten())
    write_sheet(sheet_path(folder, cell), pictures, people, cell.references)
    return judge(scorer, pictures)


def scored(said: Judgement, cell: Cell, people: People, real: Judgement) -> dict[str, Tensor]:
    """A cell's scores, and what the scorer says, by name."""
    wanted = people.prompts.flatten()
    found = scores(said, wanted, people, real, cell.references if cell.weight else 0)
    return {**found._asdict(), **_tensors(said)}


def ceiling(people: People, real: Judgement) -> dict[str, Tensor]:
    """The same scores of the real pictures of the wanted views."""
    wanted = people.prompts.flatten()
    lists = ([x[wanted] for x in said] for said in (real.attributes, real.factors))
    said = Judgement(real.features[wanted], *lists, real.identity[wanted])
    return scored(said, without(BASE), people, real)


def real_pictures(folder: Path) -> Judgement:
    """What the scorer says of all pictures of the study's people."""
    return _judgement(load_file(folder / "real.safetensors"))


def other_features(folder: Path) -> Tensor:
    """Features of real pictures of other people [n, 192], for FID and KID."""
    path = folder / "other_people.safetensors"
    made_of = {_MADE_OF: _digest(WEIGHTS_FOLDER / "scorer.safetensors")}
    if _made_of(path) != made_of[_MADE_OF]:
        pixels = torch.from_numpy(other_people(folder / "pictures").pixels.copy())
        write_safetensors(path, {"features": judge(bundled_scorer(), pixels).features}, made_of)
    return load_file(path)["features"]


def fingerprint(cell: Cell, adapters: Path, shown: int, cfg: float) -> str:
    """Digest of what makes a cell: models, settings and people (`shown`: their checksum)."""
    files = [
        path for path in sorted(WEIGHTS_FOLDER.glob("*.safetensors")) if path.stem != "adapter"
    ]
    if cell.references:
        files.append(adapters / f"{cell.adapter}.safetensors")
    parts = [_digest(path) for path in files], shown, STEPS, cfg
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def checksum(people: People) -> int:
    """Checksum of all their pictures."""
    return zlib.crc32(people.pictures.pixels)


@lru_cache
def _digest(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there. Train it: see docs/demo-world.md.")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _made_of(path: Path) -> str | None:
    if not path.is_file():
        return None
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get(_MADE_OF)


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
