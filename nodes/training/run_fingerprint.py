"""What says which run it is: its data, models and captions; a state of another run is refused."""

from __future__ import annotations

import hashlib
from typing import Any

from ...pictures.index import PictureIndex
from ...training.encoding import Encoders
from ...training.job import Job
from ..host.fingerprints import patched_fingerprint
from ..host.memory import unload_models


def run_fingerprint(
    model: Any, clip: Any, encoders: Encoders, index: PictureIndex, job: Job, prediction: str
) -> dict[str, Any]:
    """Plain values that must be the same when a run is resumed, besides its settings.

    Models are unloaded first: while one is loaded, its LoRAs are merged into its weights.
    """
    unload_models()
    text = patched_fingerprint(clip.patcher, clip.cond_stage_model)
    faces = {"face recogniser": encoders.recogniser} if encoders.recogniser else {}
    return {
        "encoders": encoders.fingerprint,
        "data": index.digest(),
        "captions": _captions(index),
        "size": job.data.size,
        "fit": job.data.fit,
        "held_out (0 without validation)": job.held_out,
        "prediction": prediction,
        "model": patched_fingerprint(model, model.get_model_object("diffusion_model")),
        "text_encoder": text if clip.layer_idx is None else f"{text}, layer {clip.layer_idx}",
    } | faces


def _captions(index: PictureIndex) -> str:
    digest = hashlib.sha256()
    for number in range(len(index)):
        digest.update(index.caption(number).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()[:16]
