"""Draws the training pictures once, into a file that the stages map into memory."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...demo_world import description, world

_CHUNK = 100


@dataclass(frozen=True)
class Pictures:
    """Pictures of `identities` x `views`, in that order.

    Attributes:
        pixels: uint8 [n, size, size, 3], mapped from the file.
        attributes: int64 [n, number of world.ATTRIBUTES].
        visible: bool, same shape.
        factors: int64 [n, number of world.VIEW_FACTORS].
        captions: n texts.
        views: pictures of each identity.
    """

    pixels: np.ndarray
    attributes: np.ndarray
    visible: np.ndarray
    factors: np.ndarray
    captions: list[str]
    views: int

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, rows: Tensor) -> Tensor:
        """Float [B, 3, size, size] in 0 .. 1; contiguous, which is twice as fast on a CPU."""
        chosen = torch.from_numpy(self.pixels[rows.numpy()])
        return chosen.permute(0, 3, 1, 2).contiguous().float() / 255


def descriptions(pictures: Pictures) -> list[str]:
    """The captions with some of what the pictures show of the person."""
    columns = [description.told(shown, row) for row, shown in enumerate(pictures.visible)]
    said = zip(pictures.captions, pictures.attributes, columns, strict=True)
    return [description.described(*each) for each in said]


def drawn(
    folder: Path, name: str, first: int, identities: int, views: int, size: int = 128
) -> Pictures:
    """The pictures of the identities first .. first + identities, drawn if they are not there."""
    path, shape = folder / f"{name}.npy", (identities * views, size, size, 3)
    done = folder / f"{name}.json"
    about = {"first": first, "shape": list(shape)}
    if not (done.is_file() and json.loads(done.read_text(encoding="utf-8")) == about):
        folder.mkdir(parents=True, exist_ok=True)
        np.lib.format.open_memmap(path, "w+", np.uint8, shape).flush()
        starts = range(0, identities, _CHUNK)
        with ProcessPoolExecutor() as pool:
            jobs = [
                pool.submit(_draw, path, first, start, min(_CHUNK, identities - start), views, size)
                for start in starts
            ]
            for count, job in enumerate(jobs, 1):
                job.result()
                if count % 10 == 0 or count == len(jobs):
                    print(f"  {name}: {min(count * _CHUNK, identities)} identities", flush=True)
        done.write_text(json.dumps(about), encoding="utf-8")
    people = [world.identity(first + i) for i in range(identities)]
    scenes = [[world.view(who.index, k) for k in range(views)] for who in people]
    pairs = [(who, scene) for who, row in zip(people, scenes, strict=True) for scene in row]
    return Pictures(
        np.load(path, mmap_mode="r"),
        np.array([who.values for who, _ in pairs]),
        np.array([world.visible(who, scene) for who, scene in pairs]),
        np.array([scene.values for _, scene in pairs]),
        [world.caption(scene) for _, scene in pairs],
        views,
    )


def _draw(path: Path, first: int, start: int, count: int, views: int, size: int) -> None:
    pixels = np.load(path, mmap_mode="r+")
    for i in range(start, start + count):
        who = world.identity(first + i)
        for k in range(views):
            pixels[i * views + k] = np.asarray(world.draw(who, world.view(who.index, k), size))
    pixels.flush()
