"""One encoded picture of any kind -> upright RGB."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from ..files.names import printable

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
# Only these decoders run: Pillow's others include ones that start programs (EPS).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 89_000_000  # below Pillow's own warning; 356 MB decoded
_ORIENTATION = 0x0112  # EXIF; 5 and more: turned by 90 degrees


class BadPictureError(ValueError):
    """A picture that cannot be used; says which, why, and what to do."""


class UnusablePicturesError(ValueError):
    """Raised by an encoder for pictures that it can make nothing of.

    Attributes:
        reasons: why, by place in the batch that it was given.
    """

    def __init__(self, reasons: Mapping[int, str]):
        super().__init__(" ".join(reasons.values()))
        self.reasons = reasons


def decode(file: BinaryIO, name: str, size: int = 0) -> tuple[Image.Image, tuple[int, int]]:
    """First frame of a picture as RGB, upright; also its full width and height.

    Args:
        size: a JPEG may come out smaller, its sides still at least twice this; 0: as it is.

    Raises:
        BadPictureError: no picture, damaged, or more than `MAX_PIXELS`.
    """
    try:
        image: Image.Image = Image.open(file, formats=_FORMATS)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise Image.DecompressionBombError
        if size:
            image.draft("RGB", (2 * size, 2 * size))
        image.load()
        turned = False
        with suppress(Exception):  # damaged EXIF data is no reason to lose the picture
            turned = image.getexif().get(_ORIENTATION, 1) >= 5
            image = ImageOps.exif_transpose(image)
        image = _rgb(image)
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        raise BadPictureError(
            f"{name}: more than {MAX_PIXELS:,} pixels. Make the picture smaller."
        ) from error
    except Exception as error:  # damaged files raise nearly anything
        raise BadPictureError(f"{name}: {_reason(error)} Remove or replace the file.") from error
    return image, (height, width) if turned else (width, height)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture, or of a kind that is not read here."
    return f"damaged or cut off ({printable(str(error)) or type(error).__name__})."


def _rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB; transparent parts become white."""
    if image.mode.startswith("I"):  # 16 bits per pixel, which convert() would clip to 255
        grey = np.asarray(image).astype(np.int64)
        if grey.max(initial=0) > 255:
            grey >>= 8
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":  # floating-point TIFF, which convert() would take for 0..255
        grey = np.nan_to_num(np.asarray(image))
        grey = grey * 255 if grey.max(initial=0) <= 1 else grey
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    if {"A", "a"} & set(image.getbands()) or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return image.convert("RGB")
