"""Stage: the adapters, by the pack's own trainer from a config file as a user would write it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from PIL import Image

from .pictures import Pictures

CONFIG = Path(__file__).with_name("adapter.toml")
# What the study compares; the first one is in the bundle.
VARIANTS: dict[str, dict[str, object]] = {
    "multi_learned": {},
    "multi_concat": {"aggregation": "concat"},
    "multi_mean": {"aggregation": "mean"},
    "multi_slots": {"slots": 8},
    "single": {"aggregation": "concat", "max_references": 1, "self_reconstruction": 1.0},
    "pairs": {"aggregation": "concat", "max_references": 1},
}
_CHUNK = 200


def write_dataset(pictures: Pictures, folder: Path) -> None:
    """One folder per identity: 0.png with its caption 0.txt, and so on; nothing if it is there."""
    done = folder.with_name(f"{folder.name}.done")
    if done.is_file():
        return
    people = range(len(pictures) // pictures.views)
    with ProcessPoolExecutor() as pool:
        starts = people[::_CHUNK]
        list(pool.map(_write, [pictures] * len(starts), [folder] * len(starts), starts))
    done.touch()


def _write(pictures: Pictures, folder: Path, start: int) -> None:
    last = min(start + _CHUNK, len(pictures) // pictures.views)
    for row in range(start * pictures.views, last * pictures.views):
        stem = folder / f"{row // pictures.views:05}" / str(row % pictures.views)
        stem.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures.pixels[row]).save(f"{stem}.png", compress_level=1)
        Path(f"{stem}.txt").write_text(pictures.captions[row], encoding="utf-8")


def train(name: str, dataset: Path, folder: Path) -> None:
    """Train one variant, or go on with it; its file becomes <folder>/<name>.safetensors."""
    target = folder / f"{name}.safetensors"
    if target.is_file():
        return
    output = folder / name
    settings = VARIANTS[name] | {
        "dataset": dataset,
        "output": output,
        "cache_folder": folder / "cache",
    }
    arguments = [f"{key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "multi_ipadapter.training", "--config", CONFIG]
    subprocess.run([*command, *arguments], check=True)
    shutil.copyfile(output / "adapter.safetensors", target)
