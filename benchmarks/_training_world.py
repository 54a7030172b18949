"""What the training benchmark works on: random models, pictures on disk, a cache, settings."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..models.projection import HIDDEN, POOLED
from ..nodes.binding.encoders import picture_encoder
from ..nodes.demo.tiny_models import (
    DemoConfig,
    build_clip,
    build_clip_vision,
    build_unet,
    build_vae,
)
from ..nodes.host.fingerprints import fingerprint
from ..nodes.training.run import Models
from ..pictures.folders import open_folders
from ..pictures.index import PictureIndex
from ..training.cache import FeatureCache, build_cache
from ..training.cache_plan import CacheKey, CacheSpec
from ..training.config import TrainingConfig
from ..training.encoding import Encoders
from ..training.online import OnlineSource
from ..training.sampling import DropOneSampler, Row

REFERENCES = 4
PICTURES = 6  # of each identity
FIT = "crop"

_LAYOUT = DemoConfig().unet  # the blocks of SD1.x

# The layout of SD1.x with 96 channels; VAE and image encoder are about as large beside the UNet
# as the real ones are at 512 px (a VAE encode 0.67 of its forward and backward pass, an image
# encoder's forward pass 0.20).
_SMALL = DemoConfig(
    unet={**_LAYOUT, "model_channels": 96, "context_dim": 256},
    vision={
        "hidden_size": 192,
        "num_hidden_layers": 7,
        "num_attention_heads": 3,
        "intermediate_size": 768,
        "hidden_act": "gelu",
        "model_type": "clip_vision_model",
        "num_channels": 3,
        "patch_size": 14,
        "image_size": 224,
        "projection_dim": 192,
    },
    text={
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
    },
    vae={
        "double_z": True,
        "z_channels": 4,
        "resolution": 128,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "dropout": 0.0,
    },
    heads={"num_heads": 8, "num_head_channels": -1},
)
# SD1.5 with CLIP-L, and the image encoder of the Plus adapters (ViT-H/14).
_FULL = DemoConfig(
    unet={**_LAYOUT, "model_channels": 320, "context_dim": 768},
    vision={
        **_SMALL.vision,
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "intermediate_size": 5120,
        "projection_dim": 1024,
    },
    text={
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
    },
    vae={**_SMALL.vae, "ch": 128, "resolution": 512},
    heads={"num_heads": 8, "num_head_channels": -1},
)


@dataclass(frozen=True)
class Scale:
    """Sizes for a kind of device; `memory_batches` are those whose peak memory is measured."""

    models: DemoConfig
    dtype: torch.dtype  # of the UNet as sampling loads it
    pixels: int
    identities: int
    batch_size: int
    memory_batches: tuple[int, ...]
    precision: str
    resampler_dim: int
    num_tokens: int

    def settings(self, **changes) -> TrainingConfig:
        """Those of a run: the defaults, without files and warm-up."""
        config = TrainingConfig(
            steps=1,
            batch_size=self.batch_size,
            num_tokens=self.num_tokens,
            resampler_dim=self.resampler_dim,
            max_references=REFERENCES,
            precision=self.precision,
            warmup=0,
            schedule="constant",
            validate_every=0,
            checkpoint_every=0,
        )
        return replace(config, **changes)


CPU = Scale(_SMALL, torch.float32, 128, 16, 4, (4,), "fp32", 192, 16)
GPU = Scale(_FULL, torch.float16, 512, 64, 16, (4, 16), "bf16", 768, 16)


def scale_of(device: torch.device) -> Scale:
    """Small models for a CPU, real sizes for a GPU."""
    return CPU if device.type == "cpu" else GPU


def build_models(scale: Scale) -> Models:
    """Random weights in ComfyUI's own wrappings; call it under inference mode, as nodes run."""
    logging.disable(logging.WARNING)  # that the VAE's file has no weights
    try:
        return _build(scale)
    finally:
        logging.disable(logging.NOTSET)


def _build(scale: Scale) -> Models:
    return Models(
        build_unet(scale.models, 0, dtype=scale.dtype),
        build_clip(scale.models, 1),
        build_vae(scale.models, 2),
        build_clip_vision(scale.models, 3),
    )


def draw_pictures(root: Path, scale: Scale) -> None:
    """A folder for each identity: JPEG files a little larger than needed, each with a caption."""
    random = np.random.default_rng(0)
    side = scale.pixels * 5 // 4
    for identity in range(scale.identities):
        folder = root / f"person-{identity:03}"
        folder.mkdir(parents=True)
        for number in range(PICTURES):
            patches = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            picture = Image.fromarray(patches).resize((side, side), Image.Resampling.BICUBIC)
            picture.save(folder / f"{number}.jpg", quality=92)
            caption = f"a person, identity {identity}, picture {number}"
            (folder / f"{number}.txt").write_text(caption, encoding="utf-8")


class World:
    """Models, pictures below `root` and, once built, their cache."""

    def __init__(self, root: Path, scale: Scale):
        self.root, self.scale = root, scale
        self.models = build_models(scale)
        self.index: PictureIndex = open_folders(root / "pictures")
        m = self.models
        encode = picture_encoder(m.model, m.vae, m.clip_vision, FIT)
        made_by = fingerprint(m.vae.first_stage_model, m.clip_vision.model)
        self._encoders = Encoders(encode, made_by, {})
        self._key = CacheKey(made_by, scale.pixels, FIT, self.index.digest(times=True))

    def build_cache(self) -> None:
        """Encode every picture."""
        build_cache(
            self._folder, self.index, self._encoders, CacheSpec(self._key, (POOLED, HIDDEN))
        )

    def cached(self) -> FeatureCache:
        """The source of (a)."""
        return FeatureCache(self._folder, self.index, self._key)

    def online(self) -> OnlineSource:
        """The source of (b)."""
        return OnlineSource(self.index, self._encoders.encode, self.scale.pixels, FIT)

    @property
    def _folder(self) -> Path:
        return self.root / "cache"


class FixedReferences:
    """The sampler's rows, but always with `REFERENCES` references."""

    def __init__(self, sampler: DropOneSampler, index: PictureIndex):
        self.sampler, self.index = sampler, index

    def batch(self, micro_step: int) -> list[Row]:
        """As `DropOneSampler.batch`."""
        return [self._row(row) for row in self.sampler.batch(micro_step)]

    def _row(self, row: Row) -> Row:
        identity = self.index.identity_of(row.target)
        others = [n for n in self.index.pictures_of(identity) if n != row.target]
        return replace(row, references=tuple(others[:REFERENCES]))
