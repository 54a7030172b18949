"""A sweep in its folder: the pictures, references and targets, and the manifest that joins them.

Folder: pictures/<identity>/*.png, references/<identity>/*.png, targets/<identity>.png,
manifest.jsonl (read by the evaluation), sweep.json (settings, checked when it goes on).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from ..figures.sheets import contact_sheet
from ..files.atomic import atomically, write_whole
from ..files.names import printable
from ..models.references import ReferenceEmbeds
from ..pictures.decode import decode
from ..pictures.index import PictureIndex
from ..pictures.pixels import to_floats
from .sweep import Case, Shot, folder_name

_REFERENCE_SIDE = 1024  # larger ones are kept smaller
_SHEET_ROWS = 6
_SETTINGS, _MANIFEST = "sweep.json", "manifest.jsonl"


class Drawer(Protocol):
    """Draws a prompt with some references, at some weight."""

    def encode(self, pictures: Sequence[Tensor]) -> ReferenceEmbeds:
        """Pictures [H, W, 3] of one identity."""
        ...

    def draw(self, references: ReferenceEmbeds, prompt: str, shot: Shot) -> Image.Image:
        """One picture."""
        ...


class Sweep:
    """One folder of pictures. `prompts` empty: the caption of the target."""

    def __init__(
        self,
        folder: Path,
        index: PictureIndex,
        cases: Sequence[Case],
        prompts: Sequence[str],
        encoder: str,
    ):
        self.folder, self.index, self.cases, self.encoder = folder, index, cases, encoder
        self.prompts = list(prompts)
        self.names = [folder_name(i, printable(case.identity)) for i, case in enumerate(cases)]

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Start, or go on.

        Raises:
            ValueError: the folder holds another sweep.
        """
        path = self.folder / _SETTINGS
        settings = json.loads(json.dumps(settings, default=str))
        if path.is_file():
            there = json.loads(path.read_text(encoding="utf-8"))
            differing = sorted(k for k in settings if there.get(k) != settings[k])
            if differing:
                raise ValueError(
                    f"The folder evaluation/{self.folder.name} holds a sweep with other settings "
                    f"({', '.join(differing)}). Choose another name, or delete the folder."
                )
            return
        write_whole(path, json.dumps(settings, indent=1).encode())

    def run(
        self,
        plan: Sequence[Shot],
        drawer: Drawer,
        on_step: Callable[[int, int, str], None],
        check: Callable[[], object],
    ) -> None:
        """Draw what is not there yet.

        Args:
            on_step: called with pictures done, of how many, and the last one's name.
            check: called before a picture is drawn; it raises to stop.
        """
        encoded: dict[int, ReferenceEmbeds] = {}
        for number, shot in enumerate(plan):
            path = self._path(shot)
            if not path.is_file():
                check()
                picture = self._shared(shot)
                if picture is None:
                    if shot.case not in encoded:
                        encoded = {shot.case: drawer.encode(self._references(shot.case))}
                    picture = drawer.draw(encoded[shot.case], self._prompt(shot), shot)
                _save(path, picture)
            on_step(number + 1, len(plan), shot.name)

    def _shared(self, shot: Shot) -> Image.Image | None:
        """The same picture, drawn for another number of references: weight 0 ignores them."""
        if shot.weight:
            return None
        name = f"{replace(shot, count=0).name}".replace("_n0_", "_n*_")
        found = sorted(self._path(shot).parent.glob(f"{name}.png"))
        return _open(found[0]) if found else None

    def write_manifest(self, plan: Sequence[Shot]) -> None:
        """A line for every picture that is there."""
        lines = []
        for shot in plan:
            if not self._path(shot).is_file():
                continue
            case, name = self.cases[shot.case], self.names[shot.case]
            # Scored against all of them at every number, else the yardstick would change with it.
            references = [f"references/{name}/{i}.png" for i in range(len(case.references))]
            line = {
                "image": f"pictures/{name}/{shot.name}.png",
                "identity": printable(case.identity),
                "prompt": self._prompt(shot),
                "references": references,
                "given": references[: shot.count],
                "conditions": {"weight": shot.weight, "references": shot.count},
                "encoder": self.encoder,
            }
            if case.target is not None:
                line["target"] = f"targets/{name}.png"
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
        write_whole(self.folder / _MANIFEST, "".join(lines).encode())

    def sheet(self, plan: Sequence[Shot]) -> Image.Image:
        """The first prompt and seed: a row for every identity and number, weights side by side."""
        rows: dict[tuple[int, int], list[Shot]] = {}
        for shot in plan:
            if (shot.prompt, shot.seed) == (plan[0].prompt, plan[0].seed):
                rows.setdefault((shot.case, shot.count), []).append(shot)
        shown = dict(list(rows.items())[:_SHEET_ROWS])
        return contact_sheet(
            [[self._reference(case), *map(self._drawn, row)] for (case, _), row in shown.items()],
            [f"{self.names[case]}, N = {count}" for case, count in shown],
            ["reference", *(f"weight {shot.weight:g}" for shot in next(iter(shown.values())))],
        )

    def _reference(self, case: int) -> Image.Image:
        return _open(self.folder / "references" / self.names[case] / "0.png")

    def _drawn(self, shot: Shot) -> Image.Image:
        return _open(self._path(shot))

    def _path(self, shot: Shot) -> Path:
        return self.folder / "pictures" / self.names[shot.case] / f"{shot.name}.png"

    def _prompt(self, shot: Shot) -> str:
        if self.prompts:
            return self.prompts[shot.prompt]
        case = self.cases[shot.case]
        return self.index.caption(case.references[0] if case.target is None else case.target)

    def _references(self, number: int) -> list[Tensor]:
        """Pictures of an identity [H, W, 3], which are kept beside what is drawn from them."""
        case, name = self.cases[number], self.names[number]
        if case.target is not None:
            self._keep(case.target, self.folder / "targets" / f"{name}.png")
        folder = self.folder / "references" / name
        return [self._keep(n, folder / f"{i}.png") for i, n in enumerate(case.references)]

    def _keep(self, picture: int, path: Path) -> Tensor:
        if not path.is_file():
            with self.index.open(picture) as file:
                image = decode(file, self.index.name(picture), _REFERENCE_SIDE)[0]
            image.thumbnail((_REFERENCE_SIDE, _REFERENCE_SIDE), Image.Resampling.LANCZOS)
            _save(path, image)
        return _load(path)


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _load(path: Path) -> Tensor:
    """[H, W, 3] in 0..1."""
    return to_floats(np.array(_open(path)))


def _save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomically(path) as temporary:
        image.save(temporary, "PNG")
