"""What earlier versions of the pack wrote, small, to be read and continued by this one.

Those in tests/earlier/ were written by `write_files` before the modules moved to the folders that
they are in now.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import torch

from multi_ipadapter.evaluation.metrics.statistics import Provenance, gaussian_of, save_statistics
from multi_ipadapter.nodes.demo.tiny_models import (
    DemoConfig,
    build_adapter,
    build_clip,
    build_clip_vision,
    build_unet,
    build_vae,
)
from multi_ipadapter.nodes.evaluation.sweep import SweepMultiIPAdapter
from multi_ipadapter.nodes.steering.encode import EncodeReferenceImages
from multi_ipadapter.nodes.steering.reference_files import SaveReferences
from multi_ipadapter.nodes.training.dataset import ReferenceDataset
from multi_ipadapter.nodes.training.train import TrainMultiIPAdapter
from multi_ipadapter.runs.metrics import curves, read_metrics

from .people import write_people

FILES = Path(__file__).with_name("earlier")
WIDTH = 16  # of the text, so that a state of the adapter stays small
TIME = 1_700_000_000_000_000_000  # of all pictures: part of what a cache was made from, ns
STOPPED, STEPS = 4, 8
PROVENANCE = Provenance("fid-inception", "ab" * 32, "torch-fidelity", "pool")
TRAINING = {"batch_size": 2, "learning_rate": 1e-3, "size": 64, "precision": "fp32"}
SETTINGS = """
projection = "linear"
num_tokens = 2
warmup = 2
schedule = "constant"
log_every = 1
checkpoint_every = 4
validate_every = 4
previews = 0
held_out = 0.3
"""
SWEEP = {"identities": 2, "width": 64, "height": 64, "steps": 1, "cfg": 1.0}
SWEEP |= {"weights": "0, 1", "references": "1, 2"}


def small_models():
    """MODEL, CLIP, VAE, CLIP_VISION and an adapter."""
    config = DemoConfig()
    text = config.text | {"hidden_size": WIDTH, "intermediate_size": 32}
    config = dataclasses.replace(config, unet=config.unet | {"context_dim": WIDTH}, text=text)
    unet = build_unet(config, 0)
    rest = (build_clip(config, 1), build_vae(config, 2), build_clip_vision(config, 3))
    return (unet, *rest), build_adapter(config, unet, 4)


def set_times(folder: Path) -> None:
    """Give the pictures the times that they had."""
    for path in folder.rglob("*.png"):
        os.utime(path, ns=(TIME, TIME))


def train(models, steps: int):
    """Train the run `earlier`, or go on with it, in ComfyUI's output folder."""
    dataset = ReferenceDataset.execute("people").args[0]
    return TrainMultiIPAdapter.execute(
        *models, dataset, "earlier", steps=steps, settings=SETTINGS, **TRAINING
    )


def sweep(models, adapter):
    """Draw the sweep `earlier`, or what it lacks."""
    dataset = ReferenceDataset.execute("people").args[0]
    model, clip, vae, clip_vision = models
    return SweepMultiIPAdapter.execute(
        model, clip, vae, adapter, clip_vision, dataset, name="earlier", **SWEEP
    )


def losses(run: Path) -> dict[int, float]:
    """Losses of every step, as the run's metrics tell them."""
    return dict(curves(read_metrics(run / "metrics.jsonl"))["loss"])


def write_files(base: Path) -> None:
    """Write all of it below `base`, ComfyUI's folder."""
    people = base / "input" / "people"
    shutil.rmtree(people, ignore_errors=True)
    write_people(people, identities=6, pictures=3)
    set_times(base)
    models, adapter = small_models()
    train(models, STOPPED)
    run = base / "output" / "training" / "earlier"
    shutil.copytree(run, base / "stopped")
    train(models, STEPS)
    (base / "losses.json").write_text(json.dumps(losses(run)))
    shutil.rmtree(run)
    (base / "stopped").rename(run)
    sweep(models, adapter)
    picture = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    references = EncodeReferenceImages.execute(
        adapter, models[3], reference_images={"reference_image_0": picture}
    ).args[0]
    SaveReferences.execute(references, "earlier")
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    save_statistics(base / "statistics.npz", gaussian_of(features), PROVENANCE)
