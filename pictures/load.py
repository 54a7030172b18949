"""A picture of an index -> square uint8 pixels and a loss mask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..files.names import printable
from .decode import BadPictureError, decode
from .fit import PAD, Region, face_mask, fit_region, render
from .index import PictureIndex
from .pixels import to_floats


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
    pixels = render(image, _scaled(region, scale, scale), size, PAD)
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


def _load_mask(path: Path, full_size: tuple[int, int], region: Region, size: int) -> Tensor:
    """[size, size]; a mask of another size than its picture is stretched onto it."""
    name = f"mask {printable(path.name)}"
    with _open(lambda: path.open("rb"), name) as file:
        image = decode(file, name)[0].convert("L")
    x, y = image.width / full_size[0], image.height / full_size[1]
    return to_floats(render(image, _scaled(region, x, y), size, 0))


def _scaled(region: Region, x: float, y: float) -> Region:
    return region[0] * x, region[1] * y, region[2] * x, region[3] * y


def _open(opener: Callable[[], BinaryIO], name: str) -> BinaryIO:
    try:
        return opener()
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadPictureError(f"{name}: cannot be opened ({reason}). Restore it.") from error
