"""ComfyUI's IMAGE -> pictures and pixels, and back; `pictures.pixels` has the rounding."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...pictures.pixels import to_bytes, to_floats
from ...pictures.sources import TensorSource


def to_image(picture: Image.Image) -> Tensor:
    """A picture -> IMAGE [1, H, W, 3]."""
    return to_floats(np.array(picture.convert("RGB")))[None]


def to_picture(image: Tensor) -> Image.Image:
    """One of an IMAGE, [H, W, 3] -> a picture, as Save Image would write it."""
    return Image.fromarray(to_bytes(image))


def pixels_of(images: Tensor, label: str = "image") -> Tensor:
    """IMAGE -> uint8 [B, 3, H, W], as Save Image would write it.

    Raises:
        ValueError: another shape or dtype, or no picture; `label` says of what.
        BadPictureError: pixels that are not finite.
    """
    source = TensorSource(images, label)
    return torch.stack([source.load(i).pixels for i in range(len(source))])
