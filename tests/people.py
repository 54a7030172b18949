"""Small datasets on disk, a cheap encoder and a cache of what it gives, for the training tests."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from multi_ipadapter.models.projection import HIDDEN, POOLED
from multi_ipadapter.pictures.index import PictureIndex
from multi_ipadapter.pictures.load import load_picture
from multi_ipadapter.training.cache import FeatureCache, build_cache
from multi_ipadapter.training.cache_plan import CacheKey, CacheSpec
from multi_ipadapter.training.encoding import Encoders

# Enough to see a run from end to end in seconds.
_SETTINGS = {
    "projection": "linear",
    "num_tokens": 4,
    "warmup": 2,
    "log_every": 1,
    "checkpoint_every": 0,
    "validate_every": 0,
    "held_out": 0.3,
}
SMALL = {"batch_size": 2, "learning_rate": 1e-3, "size": 64, "precision": "fp32"}

# What `write_noise` and `build` write.
SIZE, COUNTS = 32, (3, 2, 4, 1, 5, 2)
SHARD_BYTES = 10_000  # a few pictures: several shards


def settings_with(**changes: Any) -> str:
    """Text for the node's field or the command line's file; None leaves a setting out."""
    values = {k: v for k, v in (_SETTINGS | changes).items() if v is not None}
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def write_people(folder: Path, identities: int = 8, pictures: int = 4) -> Path:
    """`folder`/p<i>/<j>.png with a caption for each."""
    random = np.random.default_rng(0)
    for i in range(identities):
        person = folder / f"p{i:02}"
        person.mkdir(parents=True)
        colour = random.integers(0, 256, 3)
        for j in range(pictures):
            noise = random.normal(0, 20, (72, 64, 3))
            pixels = np.clip(colour + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(person / f"{j}.png")
            (person / f"{j}.txt").write_text(f"a portrait, view {j}")
    return folder


def picture(seed: int, side: int = 80) -> Image.Image:
    """Sixteen blurred spots of colour."""
    values = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), np.uint8)
    return Image.fromarray(values).resize((side, side))


def jpeg(seed: int, side: int = 80) -> bytes:
    """The same as a file."""
    file = io.BytesIO()
    picture(seed, side).save(file, "JPEG")
    return file.getvalue()


def contents(index: PictureIndex) -> dict[str, list[str]]:
    """Names of the pictures by identity."""
    return {
        name: [index.name(n) for n in index.pictures_of(i)]
        for i, name in enumerate(index.identities)
    }


def write_noise(root: Path) -> Path:
    """Identities with `COUNTS` pictures of noise; the third picture is damaged."""
    random = np.random.default_rng(0)
    for i, count in enumerate(COUNTS):
        (root / f"p{i}").mkdir(parents=True)
        for j in range(count):
            values = random.integers(0, 255, (40, 50, 3), np.uint8)
            Image.fromarray(values).save(root / f"p{i}" / f"{j}.png")
            (root / f"p{i}" / f"{j}.txt").write_text(f"caption {i} {j}")
    (root / "p0" / "2.png").write_bytes((root / "p0" / "2.png").read_bytes()[:2000])
    return root


def encode(pictures, names=None):
    """Stands for VAE and image encoder: cheap, and another result for every picture."""
    x = pictures.float().movedim(-1, 1) / 255  # [b, 3, H, W]
    latents = F.avg_pool2d(torch.cat([x, x.mean(1, keepdim=True)], 1), 8) * 4 - 2  # [b, 4, h, w]
    pooled = F.adaptive_avg_pool2d(x, 4).flatten(1)  # [b, 48]
    hidden = (pooled.unsqueeze(1) * torch.linspace(-3, 3, 17).view(1, -1, 1)).sin()  # [b, 17, 48]
    return {"latents": latents, "image_embeds": pooled, "penultimate_hidden_states": hidden}


def damage(folder: Path, *names: str) -> None:
    """Leave these pictures their size, and nothing that can be read."""
    for name in names:
        (folder / name).write_bytes(b"x" * (folder / name).stat().st_size)


def key_of(index, **changes) -> CacheKey:
    """Spec of the cache that `build` makes."""
    key = CacheKey("abc", SIZE, "crop", index.digest(times=True))
    return dataclasses.replace(key, **changes)


def build(index, folder, encode=encode, key=None, watch=(), **spec) -> bool:
    """A cache in several shards; `watch` are on_progress and should_stop."""
    spec = {"names": (POOLED, HIDDEN), "shard_bytes": SHARD_BYTES} | spec
    encoders = Encoders(encode, "abc", {}, batch_size=2)
    key = key or key_of(index)
    return build_cache(folder, index, encoders, CacheSpec(key, **spec), *watch)


def cache_of(index, folder, **changes) -> FeatureCache:
    """What `build` has made; of another key, if so wanted."""
    return FeatureCache(folder, index, key_of(index, **changes))


def read_all(cache: FeatureCache) -> None:
    """Every row of it, whose checksums are compared then."""
    cache.fetch(range(len(cache.index)), cache.plan.names)


def shards(folder) -> dict[str, bytes]:
    """Contents of a cache's files by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*.safetensors"))}


def expected(index, number: int) -> dict[str, torch.Tensor]:
    """What `encode` gives for a picture."""
    pixels, _ = load_picture(index, number, SIZE, "crop")
    return {name: values[0] for name, values in encode(pixels[None]).items()}


def counted(seen: list[int]):
    """`encode` that notes how many pictures it gets."""

    def run(pictures, names):
        seen.append(len(pictures))
        return encode(pictures)

    return run
