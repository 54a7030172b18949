"""CLIP, VAE and CLIP_VISION as plain callables: captions and pictures -> tensors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...faces.analysis import EMBEDDING, FaceAnalyser
from ...models.projection import FACE, HIDDEN, POOLED
from ...pictures.pixels import to_floats
from ...training.batch import LATENTS, pinned
from ..host.memory import LOADING, copies_for_autograd
from ..steering.face_features import embed_pictures
from ..steering.vision import encode, encode_null

FEATURES = (POOLED, HIDDEN)
# About 4,500 captions of SD1.x or 1,600 of SDXL on a machine with 16 GB.
_CAPTION_BYTES = int(comfy.model_management.total_ram * 2**20 / 16)


def text_encoder(model: Any, clip: Any, device: torch.device, size: int) -> Callable:
    """Captions -> {"context", "y"}; the latest captions are remembered.

    It is called by the thread that prepares batches, and by validation.
    """
    known: OrderedDict[str, dict[str, Tensor]] = OrderedDict()

    def encode_one(caption: str) -> dict[str, Tensor]:
        with torch.inference_mode():
            context, pooled = clip.encode_from_tokens(clip.tokenize(caption), return_pooled=True)
            text = {"context": context[:, :77]}  # rows of a batch must be of one length
            if model.model.adm_channels:
                text["y"] = model.model.encode_adm(
                    pooled_output=pooled,
                    device=device,
                    **{"width": size, "height": size, "target_width": size, "target_height": size},
                )
        return copies_for_autograd(text)

    def encode_known(caption: str) -> dict[str, Tensor]:
        text = known.pop(caption, None) or encode_one(caption)
        known[caption] = text
        if len(known) * sum(x.nbytes for x in text.values()) > _CAPTION_BYTES:
            known.popitem(last=False)
        return text

    def encode_all(captions: Sequence[str]) -> dict[str, Tensor]:
        with LOADING:
            encoded = [encode_known(caption) for caption in captions]
        text = {name: torch.cat([each[name] for each in encoded]) for name in encoded[0]}
        if device.type == "cuda":
            text = {name: pinned(x) for name, x in text.items()}  # else copying waits for the GPU
        return {name: x.to(device, non_blocking=True) for name, x in text.items()}

    return encode_all


def picture_encoder(
    model: Any, vae: Any, clip_vision: Any, fit: str, faces: FaceAnalyser | None = None
) -> Callable:
    """Pictures uint8 [b, H, W, 3] -> latents in the model's scale, and the image features; face
    embeddings where they are asked for by name."""

    def encode_pictures(
        pictures: Tensor, names: Sequence[str] = (LATENTS, *FEATURES)
    ) -> dict[str, Tensor]:
        found = {}
        if FACE in names:
            assert faces is not None  # without one, no adapter that reads faces is planned
            found[FACE] = embed_pictures(faces, pictures)
        with LOADING, torch.inference_mode():
            pixels = to_floats(pictures)
            if LATENTS in names:
                found[LATENTS] = model.model.process_latent_in(vae.encode(pixels))
            if wanted := [name for name in FEATURES if name in names]:
                images = {"pictures": pixels}
                found |= encode(clip_vision, images, fit, wanted, show_progress=False)
        return copies_for_autograd(found)

    return encode_pictures


def feature_widths(clip_vision: Any, faces: FaceAnalyser | None) -> dict[str, int]:
    """Widths of the encoders' features, by name."""
    return {name: x.shape[-1] for name, x in null_features(clip_vision, faces).items()}


def null_features(clip_vision: Any, faces: FaceAnalyser | None) -> dict[str, Tensor]:
    """Features of no picture, each [1, ...]."""
    with torch.inference_mode():
        null = encode_null(clip_vision, FEATURES)
        return null if faces is None else null | {FACE: torch.zeros(1, EMBEDDING)}
