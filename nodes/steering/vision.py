"""Pictures of any size -> features of a ComfyUI CLIP vision model, in batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import comfy.clip_vision
import comfy.model_management
import comfy.utils
import torch
from torch import Tensor
from torch.nn import functional as F

from ...models.checkpoint import encoder_name
from ...models.projection import FACE, HIDDEN, POOLED, ProjectionConfig
from ...pictures.fit import check_fit

BATCH = 16


def check_images(images: Mapping[str, Tensor]) -> None:
    """Refuse what cannot be encoded, by the name of the input.

    Raises:
        ValueError: no image at all, an empty one, another number of channels than 3, or NaN.
    """
    if not images:
        raise ValueError("Got no reference images; connect at least one to reference_images.")
    for name, image in images.items():
        shape = tuple(image.shape)
        if image.ndim != 4 or min(shape) == 0:
            raise ValueError(
                f"{name}: got an image of shape {shape}; expected [batch, height, width, 3] with "
                "no side of length 0."
            )
        if shape[-1] != 3:
            raise ValueError(
                f"{name}: got {shape[-1]} channels; expected 3 (RGB). Convert the image first."
            )
        if not torch.isfinite(image).all():
            raise ValueError(
                f"{name}: the image holds NaN or infinite values. It was broken by an earlier "
                "node; check what it is connected to."
            )


def check_encoder(
    clip_vision: comfy.clip_vision.ClipVisionModel | None, projection: ProjectionConfig
) -> None:
    """Compare the encoder's widths with those that the adapter was trained on.

    Raises:
        ValueError: another encoder is needed, one where there is none, or a face analyser.
    """
    if FACE in projection.inputs:
        raise ValueError(
            "This adapter reads face embeddings (FaceID, portrait or InstantID), which an image "
            "encoder cannot make. Connect face_analysis to Encode Reference Images. Use an "
            "adapter of the base, Plus or full-face kind where there is no such input."
        )
    check_widths(clip_vision, projection)


def check_widths(
    clip_vision: comfy.clip_vision.ClipVisionModel | None, projection: ProjectionConfig
) -> None:
    """As `check_encoder`, for an adapter that may read face embeddings besides."""
    feature = "pooled" if projection.kind == "linear" else "hidden"
    needed = f"The adapter needs the image encoder {encoder_name(feature, projection.input_dim)}"
    if clip_vision is None:
        raise ValueError(
            f"{needed}; got none. Connect Load CLIP Vision, with that file from "
            "models/clip_vision, to clip_vision."
        )
    widths = clip_vision.config
    width = widths.get("projection_dim" if feature == "pooled" else "hidden_size")
    if width != projection.input_dim:
        raise ValueError(
            f"{needed}; got {encoder_name(feature, width)}. Load the right file from "
            "models/clip_vision."
        )


def encode(
    clip_vision: comfy.clip_vision.ClipVisionModel,
    images: Mapping[str, Tensor],
    fit: str,
    names: Sequence[str],
    show_progress: bool = True,
) -> dict[str, Tensor]:
    """Encode all pictures of all inputs, in order.

    Args:
        images: by input name, each [b, H, W, 3] in 0..1; sizes may differ.
        fit: how a picture that is not square becomes square, one of `pictures.fit.FITS`.
        names: which features are wanted.

    Returns:
        By name, [N, ...] float32, N being the number of pictures.
    """
    size, mean = clip_vision.image_size, clip_vision.image_mean
    squares = torch.cat([to_square(image, size, fit, mean) for image in images.values()])
    progress = comfy.utils.ProgressBar(len(squares)) if show_progress else None
    parts = []
    for batch in squares.split(BATCH):
        comfy.model_management.throw_exception_if_processing_interrupted()
        parts.append(clip_vision.encode_image(batch, crop=False))
        if progress:
            progress.update(len(batch))
    return {name: torch.cat([part[name].float() for part in parts]) for name in names}


def encode_null(
    clip_vision: comfy.clip_vision.ClipVisionModel, names: tuple[str, ...]
) -> dict[str, Tensor]:
    """Features of the null image that the adapters were trained with, each [1, ...].

    Zero embedding for the pooled feature; for hidden states, those of zero pixel values after
    normalisation (not of a black picture).
    """
    comfy.model_management.load_model_gpu(clip_vision.patcher)
    size = clip_vision.image_size
    pixels = torch.zeros(1, 3, size, size, device=clip_vision.load_device)
    output = clip_vision.model(pixel_values=pixels, intermediate_output=-2)
    home = comfy.model_management.intermediate_device()
    features = {HIDDEN: output[1], POOLED: torch.zeros_like(output[2])}
    return {name: features[name].to(home).float() for name in names}


def to_square(image: Tensor, size: int, fit: str, mean: list[float]) -> Tensor:
    """[b, H, W, 3] -> [b, size, size, 3], resized as ComfyUI's CLIP vision preprocessing does.

    "crop" cuts the middle out, "pad" adds borders of the encoder's mean colour (which it sees as
    zero), "squash" changes the proportions.

    Raises:
        ValueError: another word.
    """
    check_fit(fit)
    image = image.float()  # intermediates may be half precision, which the CPU cannot resize
    height, width = image.shape[1:3]
    if (height, width) == (size, size):
        return image
    chw = image.movedim(-1, 1)  # [b, 3, H, W]
    if fit == "squash":
        return _resize(chw, size, size).movedim(1, -1)
    if fit == "crop":
        scale = size / min(height, width)
        chw = _resize(chw, round(scale * height), round(scale * width))
        top, left = (chw.shape[2] - size) // 2, (chw.shape[3] - size) // 2
        return chw[:, :, top : top + size, left : left + size].movedim(1, -1)
    scale = size / max(height, width)
    chw = _resize(chw, max(1, round(scale * height)), max(1, round(scale * width)))
    canvas = chw.new_tensor(mean).view(1, 3, 1, 1).repeat(len(chw), 1, size, size)
    top, left = (size - chw.shape[2]) // 2, (size - chw.shape[3]) // 2
    canvas[:, :, top : top + chw.shape[2], left : left + chw.shape[3]] = chw
    return canvas.movedim(1, -1)


def _resize(chw: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(chw, size=(height, width), mode="bicubic", antialias=True)
