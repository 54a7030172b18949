"""What cannot be trained is refused here, before anything is encoded; what is doubtful is told."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comfy.model_patcher
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_sampling import EPS, V_PREDICTION, ModelSamplingDiscrete

from ..models.adapter import MultiIPAdapterConfig
from ..models.projection import HIDDEN
from ..training.config import TrainingConfig
from ..training.initial import leaves_public_shapes
from ..training.job import DataConfig
from ..training.processes import OneProcess
from ..training.records import PictureIndex, Skipped
from ..training.state import checkpoints
from .unet.sites import cross_attention_sites

log = logging.getLogger("MultiIPAdapter")

_PREDICTIONS = {EPS: "epsilon", V_PREDICTION: "v_prediction"}
_SHOWN = 20
_CAPTIONS, _TOKENS = 1000, 75  # looked at; between a start and an end token


def check_model(model: comfy.model_patcher.ModelPatcher) -> str:
    """What the model predicts, as its sampling is now: nodes may have changed it.

    Raises:
        ValueError: no UNet with text cross-attention, one that sees more than the latents, or
            another kind of prediction.
    """
    unet = model.get_model_object("diffusion_model")
    if not isinstance(unet, UNetModel) or not cross_attention_sites(unet):
        raise ValueError(
            f"Got a {type(model.model).__name__} model; adapters are trained for UNets of SD1.x, "
            "SD2.x and SDXL. Load such a checkpoint."
        )
    channels = model.model.latent_format.latent_channels
    if unet.in_channels != channels:
        raise ValueError(
            f"Got a UNet with {unet.in_channels} input channels (for inpainting, say); expected "
            f"{channels}, those of the latents. Train with the plain checkpoint of the family."
        )
    return _prediction(model.get_model_object("model_sampling"))


def _prediction(sampling: Any) -> str:
    """By the methods, since core makes a class of its own for every model."""
    kind = type(sampling)

    def has(base: type, *names: str) -> bool:
        return all(getattr(kind, name, None) is getattr(base, name) for name in names)

    if has(ModelSamplingDiscrete, "timestep"):
        for base, name in _PREDICTIONS.items():
            if has(base, "calculate_input", "calculate_denoised"):
                return name
    bases = " and ".join(base.__name__ for base in kind.__bases__)
    raise ValueError(
        f"Got a model whose sampling is {bases}; expected epsilon or v prediction with discrete "
        "timesteps. Remove the node that changes the sampling (ModelSamplingDiscrete with lcm or "
        "x0, ModelSamplingContinuousEDM), or load another checkpoint."
    )


def check_settings(
    config: TrainingConfig, folder: Path, resume: bool, processes: OneProcess
) -> None:
    """Refuse what this machine or the run's folder does not permit.

    Raises:
        ValueError: bitsandbytes is missing, rows that cannot be shared out, a run that must not be
            resumed.
    """
    if config.optimizer == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            "optimizer = adamw8bit needs bitsandbytes: pip install bitsandbytes, or use adamw."
        )
    if config.batch_size % processes.count:
        raise ValueError(
            f"Got batch_size {config.batch_size} for {processes.count} processes; expected a "
            "multiple of their number."
        )
    if not resume and checkpoints(folder):
        raise ValueError(
            f"The folder {folder.name} holds a run already. Resume it, or choose another name."
        )


def tell_doubts(
    clip: Any,
    index: PictureIndex,
    data: DataConfig,
    config: TrainingConfig,
    adapter: MultiIPAdapterConfig,
) -> None:
    """Log which settings do not do what they seem to, and which captions are cut."""
    if config.start_from and config.projection != adapter.projection.kind:
        log.warning(
            "projection = %s has no effect: the file to start from is %s, and is kept so.",
            config.projection,
            adapter.projection.kind,
        )
    if config.masked_loss and not index.store.has_masks:
        log.warning("masked_loss has no effect: no picture of the dataset has a mask.")
    if data.int8 and HIDDEN not in adapter.projection.inputs:
        kind = adapter.projection.kind
        log.warning("int8 has no effect: a %s projection reads no hidden states.", kind)
    if reasons := leaves_public_shapes(adapter):
        log.warning(
            "Only this pack is sure to load the file, for it has %s.", " and ".join(reasons)
        )
    _tell_long_captions(clip, index)


def _tell_long_captions(clip: Any, index: PictureIndex) -> None:
    """Training reads the first chunk of 77 tokens only, as rows of a batch are of one length."""
    numbers = range(0, len(index), max(1, len(index) // _CAPTIONS))
    captions = [index.caption(number) for number in numbers]
    long = sum(_is_cut(clip, caption) for caption in captions)
    if long:
        log.warning(
            "%d of %d captions looked at are longer than %d tokens; what comes after is cut off. "
            "Put what matters first.",
            long,
            len(captions),
            _TOKENS,
        )


def _is_cut(clip: Any, caption: str) -> bool:
    if len(caption.encode("utf-8", "replace")) <= _TOKENS:  # no token is shorter than a byte
        return False
    return any(len(chunks) > 1 for chunks in clip.tokenize(caption).values())


def tell_skipped(skipped: Sequence[Skipped]) -> None:
    """Log the pictures that are left out, with the reasons."""
    if skipped:
        lines = [str(entry) for entry in skipped[:_SHOWN]]
        lines += ["..."] if len(skipped) > _SHOWN else []
        log.warning("Left out of the dataset: %d\n  %s", len(skipped), "\n  ".join(lines))
