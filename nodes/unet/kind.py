"""Which UNets an adapter can be trained for, and what they predict."""

from __future__ import annotations

from typing import Any

import comfy.model_patcher
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_sampling import EPS, V_PREDICTION, ModelSamplingDiscrete

from ...diffusion.backbone import Prediction
from .sites import cross_attention_sites

_PREDICTIONS: dict[type, Prediction] = {EPS: "epsilon", V_PREDICTION: "v_prediction"}


def check_model(model: comfy.model_patcher.ModelPatcher) -> Prediction:
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


def _prediction(sampling: Any) -> Prediction:
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
