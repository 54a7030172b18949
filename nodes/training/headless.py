"""Training for the command line: models by path, then the same run as the node's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.model_management
import comfy.sd
import comfy.utils
import torch

from ...faces.analysis import FaceAnalyser
from ...faces.insight import MissingPackageError, load_pack
from ...pictures.index import PictureIndex, require_pairs
from ...pictures.inspection import inspect_dataset, picture_bytes
from ...pictures.open import open_dataset
from ...runs.processes import OneProcess
from ...training.job import DEMO, Job
from ...training.run import Result, Watcher
from ...training.source import Folders
from ..demo.bundle import trained_clip, trained_clip_vision, trained_unet, trained_vae
from .run import Models, train_adapter


def load_models(files: Mapping[str, str]) -> Models:
    """Models of the paths `checkpoint`, `clip_vision` and, instead of the checkpoint's, `vae`; the
    folder `face_pack` holds a face detector and a recogniser.

    The checkpoint "demo" means the demo's models.

    Raises:
        ValueError: a file is missing or of another kind, or packages for faces are not installed.
        OSError: a face pack is missing or not complete.
    """
    faces = _load_faces(files["face_pack"]) if files.get("face_pack") else None
    if files["checkpoint"] == DEMO:
        # Not the node, which loads the adapter too: that one is trained on these.
        return Models(trained_unet(), trained_clip(), trained_vae(), trained_clip_vision(), faces)
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
    return Models(model, clip, vae, clip_vision, faces)


def _load_faces(folder: str) -> FaceAnalyser:
    try:
        return load_pack(folder, comfy.model_management.get_torch_device())
    except MissingPackageError as error:
        raise ValueError(str(error)) from error


def _load_checkpoint(path: str) -> tuple[Any, Any, Any]:
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


def train_files(job: Job, resume: bool, watcher: Watcher, processes: OneProcess) -> Result | None:
    """Load the models that a job names, and train; None when stopped before the first step."""
    return train_job(load_models(job.files), job, resume, watcher, processes)


def train_job(
    models: Models, job: Job, resume: bool, watcher: Watcher, processes: OneProcess
) -> Result | None:
    """Index the dataset, print a report on it, and train; see `run.train_adapter`."""
    if job.run.start_from and not Path(job.run.start_from).is_file():
        raise ValueError(f"There is no file {job.run.start_from}; check the setting start_from.")
    index = open_dataset(Path(job.data.dataset), job.data.kind, job.data.split, job.run.seed)
    output = _output_folder(job)
    report, index = inspect_dataset(
        index,
        batch_size=job.run.batch_size,
        picture_bytes=_picture_bytes(job, index),
        cache_of=_cache_of(job),
    )
    if processes.rank == 0:
        print(report, flush=True)
    with torch.inference_mode():
        outcome = train_adapter(
            models, require_pairs(index), job, Folders(output), watcher, resume, processes
        )
    return outcome.result if outcome else None


def _output_folder(job: Job) -> Path:
    """Made here, so that a bad one is told before anything is encoded.

    Raises:
        ValueError: it cannot be made, or lies among the pictures or the encoded pictures.
    """
    output = Path(job.files["output"])
    for name, path in (("dataset", job.data.dataset), ("cache_folder", job.data.cache_folder)):
        if path and output.resolve().is_relative_to(Path(path).resolve()):
            raise ValueError(
                f"Got the output folder {output}, which is or lies in {name} ({path}); expected "
                "another place. Change the setting output."
            )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"The output folder {output} cannot be made ({error.strerror}). Change the setting "
            "output."
        ) from error
    return output


# What a picture costs in the cache besides its latents, for CLIP-ViT-H.
_FEATURES = {
    "linear": ("CLIP-ViT-H pooled features", (1024,)),
    "resampler": ("CLIP-ViT-H hidden states", (257, 1280)),
    "faceid": ("face embeddings", (512,)),
}


def _cache_of(job: Job) -> str:
    kind, _ = _FEATURES[job.run.projection]
    return f"SD1.5 at {job.data.size} pixels, {kind}" if job.data.cache else ""


def _picture_bytes(job: Job, index: PictureIndex) -> int:
    """Bytes of one picture in the cache, for SD1.x and CLIP-ViT-H."""
    if not job.data.cache:
        return 0
    side = job.data.size // 8
    _, features = _FEATURES[job.run.projection]  # as `_cache_of` says
    return picture_bytes((4, side, side), [features], job.data.int8, index.store.has_masks)
