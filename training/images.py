"""One encoded picture of any kind -> square uint8 pixels and a loss mask."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .records import PictureIndex, printable

FITS = ("crop", "pad", "squash")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
# Only these decoders run: Pillow's others include ones that start programs (EPS).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 89_000_000  # below Pillow's own warning; 356 MB decoded
_ORIENTATION = 0x0112  # EXIF; 5 and more: turned by 90 degrees
_PAD = (123, 117, 104)  # CLIP's mean colour

Region = tuple[float, float, float, float]


class BadPictureError(ValueError):
    """A picture that cannot be used; says which, why, and what to do."""


def load_picture(
    index: PictureIndex, number: int, size: int, fit: str
) -> tuple[Tensor, Tensor | None]:
    """Pixels uint8 [size, size, 3] and the loss mask [size, size] in 0..1, None without one.

    Raises:
        BadPictureError: missing, damaged or too large.
    """
    picture = index.picture(number)
    name = printable(index.name(number))
    with _open(lambda: index.open(number), name) as file:
        image, full_size = decode(file, name, 0 if picture.box else size)
    scale = image.width / full_size[0]  # below 1 when the decoder made it smaller
    region = fit_region(*full_size, size, fit, picture.box)
    pixels = render(image, tuple(v * scale for v in region), size, _PAD)
    mask = None
    if picture.mask:
        mask = _load_mask(picture.mask, full_size, region, size)
    elif picture.landmarks:
        mask = face_mask(picture.landmarks, region, size)
    return torch.from_numpy(pixels), mask


def check_picture(index: PictureIndex, number: int) -> tuple[int, int]:
    """Width and height of a picture that decodes, as does its mask.

    Raises:
        BadPictureError: as `load_picture`.
    """
    name = printable(index.name(number))
    with _open(lambda: index.open(number), name) as file:
        full_size = decode(file, name, 1)[1]
    mask = index.picture(number).mask
    if mask:
        _load_mask(mask, full_size, (0, 0, *full_size), 1)
    return full_size


def decode(file: BinaryIO, name: str, size: int = 0) -> tuple[Image.Image, tuple[int, int]]:
    """First frame of a picture as RGB, upright; also its full width and height.

    Args:
        size: a JPEG may come out smaller, its sides still at least twice this; 0: as it is.

    Raises:
        BadPictureError: no picture, damaged, or more than `MAX_PIXELS`.
    """
    try:
        image = Image.open(file, formats=_FORMATS)
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


def fit_region(
    width: int, height: int, size: int, fit: str, box: tuple[int, int, int, int] | None = None
) -> Region:
    """The part of a picture, in its pixels, that the square shows.

    "crop" cuts the middle out, "pad" reaches over the edges, "squash" changes the proportions.
    """
    if fit not in FITS:
        raise ValueError(f"Got fit {fit!r}; expected one of {', '.join(FITS)}.")
    left, top, right, bottom = _inside(box, width, height) if box else (0, 0, width, height)
    if fit == "squash":
        return left, top, right, bottom
    sides = right - left, bottom - top
    half = (min(sides) if fit == "crop" else max(sides)) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    return x - half, y - half, x + half, y + half


def _inside(box: tuple[int, int, int, int], width: int, height: int) -> Region:
    left, top, right, bottom = box
    left, right = max(0, left), min(width, right)
    top, bottom = max(0, top), min(height, bottom)
    return (left, top, right, bottom) if right > left and bottom > top else (0, 0, width, height)


def render(image: Image.Image, region: Region, size: int, fill) -> np.ndarray:
    """The region, resized to size x size: uint8 [size, size(, bands)]; `fill` beyond the edges."""
    x_scale, y_scale = size / (region[2] - region[0]), size / (region[3] - region[1])
    box = (
        max(0.0, region[0]),
        max(0.0, region[1]),
        min(float(image.width), region[2]),
        min(float(image.height), region[3]),
    )
    left, top = round((box[0] - region[0]) * x_scale), round((box[1] - region[1]) * y_scale)
    width = max(1, min(size - left, round((box[2] - box[0]) * x_scale)))
    height = max(1, min(size - top, round((box[3] - box[1]) * y_scale)))
    part = image.resize((width, height), Image.Resampling.BICUBIC, box, reducing_gap=3)
    if (width, height) != (size, size):
        canvas = Image.new(image.mode, (size, size), fill)
        canvas.paste(part, (left, top))
        part = canvas
    return np.array(part)


def _load_mask(path: Path, full_size: tuple[int, int], region: Region, size: int) -> Tensor:
    """[size, size]; a mask of another size than its picture is stretched onto it."""
    name = f"mask {printable(path.name)}"
    with _open(lambda: path.open("rb"), name) as file:
        image = decode(file, name)[0].convert("L")
    x, y = image.width / full_size[0], image.height / full_size[1]
    scaled = (region[0] * x, region[1] * y, region[2] * x, region[3] * y)
    return torch.from_numpy(render(image, scaled, size, 0).astype(np.float32) / 255)


def face_mask(landmarks: tuple[float, ...], region: Region, size: int) -> Tensor | None:
    """An ellipse over the face, [size, size] in 0..1; None when the landmarks lie on one spot.

    It reaches from the hairline to the chin: 1.55 times the way from eyes to mouth to both sides
    of a centre a third below the eyes, and 1.15 times the distance of the eyes sideways.
    """
    scale = np.array([size / (region[2] - region[0]), size / (region[3] - region[1])])
    points = (np.reshape(landmarks, (5, 2)) - np.asarray(region[:2])) * scale
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    length = float(np.linalg.norm(mouth - eyes))
    if length < 1e-3:
        return None
    down = (mouth - eyes) / length
    # In profile the eyes are close together, but the head is no narrower than that.
    across = max(1.15 * float(np.linalg.norm(points[1] - points[0])), length)
    along = 1.55 * length
    y, x = np.mgrid[0:size, 0:size] + 0.5
    x, y = x - (eyes + 0.35 * length * down)[0], y - (eyes + 0.35 * length * down)[1]
    radius = np.hypot((x * down[0] + y * down[1]) / along, (y * down[0] - x * down[1]) / across)
    soft = ((1 - radius) * min(along, across) + 0.5).clip(0, 1)  # an edge one pixel wide
    return torch.from_numpy(soft.astype(np.float32))


def _open(opener, name: str) -> BinaryIO:
    try:
        return opener()
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadPictureError(f"{name}: cannot be opened ({reason}). Restore it.") from error
