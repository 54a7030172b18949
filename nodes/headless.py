"""Training for the command line: models by path, then the same run as the node's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import comfy.clip_vision
import comfy.sd
import comfy.utils
import torch

from ..training.dataset import open_dataset
from ..training.job import DEMO, Job
from ..training.processes import OneProcess
from ..training.run import Watcher
from .demo import DemoModels
from .training_run import Models, Outcome, train_adapter


def load_models(files: Mapping[str, str]) -> Models:
    """Models of the paths `checkpoint`, `clip_vision` and, instead of the checkpoint's, `vae`.

    The checkpoint "demo" means the demo's models.

    Raises:
        ValueError: a file is missing or of another kind.
    """
    if files["checkpoint"] == DEMO:
        return Models(*DemoModels.execute().args[:4])
    for name in ("checkpoint", "clip_vision", "vae"):
        if files.get(name) and not Path(files[name]).is_file():
            raise ValueError(f"There is no file {files[name]}; check the setting {name}.")
    model, clip, vae = _load_checkpoint(files["checkpoint"])
    if files.get("vae"):
        vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(files["vae"], safe_load=True))
    clip_vision = comfy.clip_vision.load(files["clip_vision"])
    if clip_vision is None:
        raise ValueError(f"{Path(files['clip_vision']).name} is not an image encoder of ComfyUI's.")
    if clip is None or vae is None:
        raise ValueError(
            f"{Path(files['checkpoint']).name} holds no text encoder or VAE; use a full checkpoint."
        )
    return Models(model, clip, vae, clip_vision)


def _load_checkpoint(path: str) -> tuple:
    """MODEL, CLIP and VAE; None for what is not in the file."""
    try:
        model, clip, vae = comfy.sd.load_checkpoint_guess_config(path)[:3]
    except RuntimeError as error:  # what ComfyUI raises for a file that it does not recognise
        raise ValueError(
            f"{Path(path).name} is not a checkpoint that ComfyUI knows: {error}"
        ) from error
    if model is None:
        raise ValueError(f"{Path(path).name} holds no diffusion model; use a full checkpoint.")
    return model, clip, vae


def train_job(
    models: Models, job: Job, resume: bool, watcher: Watcher, processes: OneProcess
) -> Outcome | None:
    """Index the dataset and train; see `training_run.train_adapter`."""
    index = open_dataset(Path(job.data.dataset), job.data.kind, job.data.split, job.run.seed)
    with torch.inference_mode():
        return train_adapter(
            models,
            index,
            job.data,
            job.run,
            Path(job.files["output"]),
            watcher,
            resume,
            processes=processes,
        )
