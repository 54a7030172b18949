"""uint8 pictures -> the pixels that a feature network wants."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

INCEPTION_SIZE = 299
_LONGEST = 16  # times the shorter side; of longer pictures only the middle is resized
MODES = ("torch-fidelity", "clean", "pytorch-fid")


def check_pixels(pixels: Tensor) -> None:
    """Raise a ValueError unless the pictures are uint8 [B, 3, H, W] with B, H, W > 0."""
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
        raise ValueError(
            f"Got pictures of shape {list(pixels.shape)} and type {pixels.dtype}; expected "
            "[B, 3, H, W] of torch.uint8. Convert them first."
        )
    if 0 in pixels.shape:
        raise ValueError(f"Got pictures of shape {list(pixels.shape)}, which holds no pixel.")


def check_mode(mode: str) -> None:
    """Raise a ValueError for a mode that is none of `MODES`."""
    if mode not in MODES:
        raise ValueError(f"Got resize mode {mode!r}; expected one of {', '.join(MODES)}.")


def resize_for_inception(pixels: Tensor, mode: str) -> Tensor:
    """uint8 [B, 3, H, W] -> float32 [B, 3, 299, 299] in about -1..1, as the tool `mode` does it.

    "torch-fidelity" samples like TensorFlow 1, "pytorch-fid" like PyTorch without antialiasing,
    "clean" like PIL's bicubic filter on floating-point channels (arXiv 2104.11222). Numbers of
    different modes cannot be compared.
    """
    check_pixels(pixels)
    check_mode(mode)
    size = (INCEPTION_SIZE, INCEPTION_SIZE)
    if mode == "pytorch-fid":
        pixels = pixels.float() / 255
        return 2 * F.interpolate(pixels, size, mode="bilinear", align_corners=False) - 1
    if mode == "clean":
        pixels = _resize_like_pil(pixels, size)
    else:  # rows first: whole ones are quick to pick
        pixels = _sample_linearly(_sample_linearly(pixels, size[0], dim=2), size[1], dim=3)
    return (pixels - 128) / 128


def resize_and_crop(pixels: Tensor, resize: int, crop: int) -> Tensor:
    """uint8 [B, 3, H, W] on any device -> uint8 [B, 3, crop, crop] on the CPU.

    The shorter side becomes `resize` pixels by PIL's bicubic filter, then the middle is cut out:
    what the image processors of CLIP, DINO and DINOv2 do.
    """
    check_pixels(pixels)
    height, width = pixels.shape[2:]
    shorter = min(height, width)
    size = int(resize * width / shorter), int(resize * height / shorter)
    left, top = (size[0] - crop) // 2, (size[1] - crop) // 2
    # The whole of a long strip would not fit into memory. PIL rounds the edges of a box to
    # float32, so a few pixels of a part differ by one from those of the whole.
    strip = max(size) > _LONGEST * resize
    across, down = width / size[0], height / size[1]
    box = left * across, top * down, (left + crop) * across, (top + crop) * down

    def one(picture: np.ndarray) -> np.ndarray:
        image = Image.fromarray(picture)
        if strip:
            return np.asarray(image.resize((crop, crop), Image.Resampling.BICUBIC, box))
        resized = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
        return resized[top : top + crop, left : left + crop]

    # PIL itself, which lets go of the interpreter: its 8-bit arithmetic is part of the protocol.
    pictures = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    with ThreadPoolExecutor(min(len(pictures), os.cpu_count() or 1)) as pool:
        cropped = np.stack(list(pool.map(one, pictures)))
    return torch.from_numpy(cropped).permute(0, 3, 1, 2)


def resize_to(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [B, 3, H, W] -> the same type at another height and width, for LPIPS."""
    resized = F.interpolate(pixels.float(), size, mode="bicubic", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)


def _resize_like_pil(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """PIL's bicubic filter on float channels; with antialiasing PyTorch's is the same.

    Its weights have the type of the pixels: in float32 noise is off by up to 0.006 of 255, so the
    CPU uses float64, channel by channel as that takes eight times the memory of the pixels.
    """

    def resized(values: Tensor) -> Tensor:
        return F.interpolate(values, size, mode="bicubic", antialias=True).clamp(0, 255)

    if pixels.device.type != "cpu":
        return resized(pixels.float())
    channels = pixels.flatten(0, 1)[:, None].split(1)
    return torch.cat([resized(c.double()).float() for c in channels]).view(-1, 3, *size)


def _sample_linearly(pixels: Tensor, size: int, dim: int) -> Tensor:
    """TensorFlow 1's bilinear resize of one dimension: pixel 0 stays at 0, no antialiasing."""
    length = pixels.shape[dim]
    position = torch.arange(size, dtype=torch.float32, device=pixels.device)
    position = position * torch.tensor(length / size, dtype=torch.float32)
    below = position.long()
    above = (below + 1).clamp_max(length - 1)
    shape = [-1 if axis == dim else 1 for axis in range(4)]
    low, high = (pixels.index_select(dim, index).float() for index in (below, above))
    return torch.lerp(low, high, (position - below).view(shape))
