"""What says which run it is: its data, models and captions; a state of another run is refused."""

from __future__ import annotations

import hashlib
from typing import Any

from ..training.job import DataConfig
from ..training.records import PictureIndex
from .host.fingerprints import patched_fingerprint
from .host.memory import unload_models


def run_identity(
    model: Any, clip: Any, index: PictureIndex, data: DataConfig, held_out: float, prediction: str
) -> dict[str, Any]:
    """Plain values that must be the same when a run is resumed, besides its settings and encoders.

    Models are unloaded first: while one is loaded, its LoRAs are merged into its weights.
    """
    unload_models()
    text = patched_fingerprint(clip.patcher, clip.cond_stage_model)
    return {
        "data": index.digest(),
        "captions": _captions(index),
        "size": data.size,
        "fit": data.fit,
        "held_out (0 without validation)": held_out,
        "prediction": prediction,
        "model": patched_fingerprint(model, model.get_model_object("diffusion_model")),
        "text_encoder": text if clip.layer_idx is None else f"{text}, layer {clip.layer_idx}",
    }


def _captions(index: PictureIndex) -> str:
    digest = hashlib.sha256()
    for number in range(len(index)):
        digest.update(index.caption(number).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()[:16]
