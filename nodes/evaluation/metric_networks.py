"""Feature networks of the evaluation nodes: files in models/metrics, or a CLIP_VISION."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd1_clip
import torch
from comfy_api.v0_0_2 import io
from torch import Tensor

from ...evaluation.encoders import vision_fingerprint
from ...evaluation.loading import (
    CLIPS,
    DINOS,
    FACE_ROLES,
    LPIPS,
    NetworkChoice,
    load_networks,
    roles_of,
)
from ...evaluation.networks.face import Face
from ...evaluation.networks.precision import in_full_precision
from ...evaluation.plan import METRICS
from ...faces.insight import MissingPackageError, MissingPackError
from ...pictures.pixels import to_floats
from ..faces.analysis import load_first_pack
from ..host.fingerprints import tensors_hash
from ..host.folders import metric_folders

CONNECTED = "connected clip_vision"
_ROOM = 3 << 30  # bytes on the device; the largest network and a batch of pictures
_BATCH = 16


class CoreClipVision:
    """ComfyUI's CLIP_VISION as a feature network; computes in float32 whatever its weights are.

    Raises:
        ValueError: an encoder without one embedding for a picture (SigLIP).
    """

    def __init__(self, clip_vision: Any):
        self._clip_vision = clip_vision
        config = clip_vision.config
        if "siglip" in clip_vision.model_type:
            raise ValueError(
                f"Got a clip_vision of type {clip_vision.model_type}, for which ComfyUI gives no "
                "embedding of a whole picture. Connect a CLIP or DINOv2 encoder."
            )
        width = config.get("projection_dim", config.get("hidden_size"))
        self.name = f"clip_vision-{config.get('hidden_size')}-{clip_vision.image_size}"
        self.resize = f"clip-{clip_vision.image_size}"
        self.outputs = {"image": width}
        self.weights = tensors_hash(clip_vision.model)

    @cached_property
    def encoder(self) -> str:
        """Recognises the same weights in a file of another layout or precision."""
        return vision_fingerprint(self._clip_vision.model.state_dict())

    @in_full_precision
    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """uint8 [B, 3, H, W] -> "image" float32 [B, D], not normalised."""
        images = to_floats(pixels.permute(0, 2, 3, 1))
        parts = [self._clip_vision.encode_image(x)["image_embeds"] for x in images.split(_BATCH)]
        return {"image": torch.cat(parts).float()}


def network_inputs() -> list[io.Input]:
    """Inputs of a node that choose its networks: `clip_vision`, and a `NetworkChoice`."""
    clip = "Network of image_alignment, text_alignment and clip_score, from models/metrics, or the "
    clip += "connected one. Papers use ViT-B/32 (Textual Inversion, Custom Diffusion) or L/14 "
    combos = (
        ("clip", [*CLIPS, CONNECTED], clip + "(IP-Adapter)."),
        ("dino", list(DINOS), "Network of dino. Papers use dino-vits16."),
        ("lpips", list(LPIPS), "Backbone of lpips and lpips_diversity."),
    )
    connected = io.ClipVision.Input(
        "clip_vision",
        optional=True,
        tooltip=f"Compares pictures if clip is '{CONNECTED}'. If possible, connect another "
        "encoder than the adapter's.",
    )
    return [
        connected,
        *(
            io.Combo.Input(name, options=options, default=options[0], optional=True, tooltip=text)
            for name, options, text in combos
        ),
    ]


@contextmanager
def metric_networks(
    metrics: Sequence[str], choice: NetworkChoice, clip_vision: Any = None
) -> Iterator[tuple[Mapping[str, Any], torch.device]]:
    """Networks by role, and their device; given back at the end.

    Args:
        choice: its clip may be `CONNECTED`: then `clip_vision` serves.

    Raises:
        MissingWeightsError: a file is missing; says what it is called, and where to get it.
        ValueError: the connected encoder was chosen for texts, or none is connected.
    """
    device = comfy.model_management.get_torch_device()
    given = {}
    if _is_connected(choice.clip, clip_vision, metrics):
        given["clip"] = CoreClipVision(clip_vision)
        choice = replace(choice, clip=CLIPS[0])
    comfy.model_management.free_memory(_ROOM, device)
    tokenizer = Path(comfy.sd1_clip.__file__).parent / "sd1_tokenizer"
    networks: dict[str, Any] = {}
    try:
        with torch.inference_mode(False), torch.no_grad():
            given |= _faces(roles_of(metrics), device)
            networks |= load_networks(
                metrics,
                metric_folders(),
                choice,
                tokenizer=tokenizer,
                device=device,
                given=given,
            )
        yield networks, device
    finally:
        networks.clear()  # whoever holds the mapping holds no network
        gc.collect()
        comfy.model_management.soft_empty_cache()


def _faces(roles: set[str], device: torch.device) -> dict[str, Any]:
    """What the face nodes find and recognise faces with; nothing: files in models/metrics may.

    Raises:
        MissingPackageError: a pack is there, but not what runs it, and no metric can do without.
        ValueError: the pack is damaged.
    """
    if not roles & FACE_ROLES:
        return {}
    try:
        return {"face": Face(load_first_pack(), device)}
    except MissingPackError:
        return {}
    except MissingPackageError:
        if "face" in roles:
            raise
        return {}


def _is_connected(choice: str, clip_vision: Any, metrics: Sequence[str]) -> bool:
    """Whether the connected encoder is to be used.

    Raises:
        ValueError: choice and connection disagree, or texts are to be read.
    """
    if (choice == CONNECTED) != (clip_vision is not None):
        connected = "a connected" if clip_vision is not None else "no connected"
        raise ValueError(
            f"Got clip = {choice} and {connected} clip_vision; to use a connected one choose clip "
            f"= {CONNECTED}, otherwise choose one of {', '.join(CLIPS)} and connect none."
        )
    of_prompts = [name for name in metrics if METRICS[name].prompts]
    if choice == CONNECTED and of_prompts:
        raise ValueError(
            f"Got clip = {CONNECTED} for {', '.join(of_prompts)}: a clip_vision has no text "
            f"encoder. Choose one of {', '.join(CLIPS)}, or leave these metrics out."
        )
    return choice == CONNECTED
