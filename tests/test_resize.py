"""Each resize mode gives the pixels of the tool that it is named after."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from multi_ipadapter.evaluation.resize import MODES, resize_and_crop, resize_for_inception

from .network_files import as_array, pictures

SIZES = [(64, 80), (299, 299), (299, 350), (333, 700), (512, 512), (1024, 768)]  # height, width
EVERY_SIZE = pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[1]}x{s[0]}")


def noise(height: int, width: int) -> torch.Tensor:
    """The hardest picture: every pixel independent, so that the filter's overshoot is clipped."""
    generator = torch.Generator().manual_seed(height + width)
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator)


@EVERY_SIZE
def test_clean_is_pils_bicubic_on_float_channels(size):
    pixels = noise(*size)
    ours = resize_for_inception(pixels, "clean") * 128 + 128
    for picture, got in zip(pixels, ours, strict=True):
        for channel, result in zip(picture, got, strict=True):
            image = Image.fromarray(channel.numpy().astype(np.float32), mode="F")
            expected = np.array(image.resize((299, 299), Image.Resampling.BICUBIC)).clip(0, 255)
            assert np.abs(result.numpy() - expected).max() <= 1e-3  # of 255


@EVERY_SIZE
def test_torch_fidelity_samples_like_tensorflow_1(size):
    pixels = noise(*size)
    sampled = interpolate_bilinear_2d_like_tensorflow1x(
        pixels.float(), size=(299, 299), align_corners=False
    )
    difference = resize_for_inception(pixels, "torch-fidelity") - (sampled - 128) / 128
    assert difference.abs().max() <= 1e-6


@EVERY_SIZE
def test_pytorch_fid_follows_its_formula(size):
    """Pixel centres at half-integers, the four nearest weighed linearly, then 2 x - 1."""
    pixels = noise(*size)
    expected = pixels.numpy().astype(np.float64) / 255
    for axis in (2, 3):
        length = expected.shape[axis]
        position = ((np.arange(299) + 0.5) * length / 299 - 0.5).clip(0, length - 1)
        below = np.floor(position).astype(int)
        above = np.minimum(below + 1, length - 1)
        share = np.expand_dims(position - below, (1,) if axis == 2 else (0,))
        low, high = expected.take(below, axis), expected.take(above, axis)
        expected = low + share * (high - low)
    ours = resize_for_inception(pixels, "pytorch-fid").numpy()
    # Positions are float32 there, and neighbouring pixels may differ by 255.
    assert np.abs(ours - (2 * expected - 1)).max() <= 2e-4


@pytest.mark.parametrize("size", [(224, 224), (150, 97), (300, 451), (683, 1024)])
@pytest.mark.parametrize(("resize", "crop"), [(224, 224), (256, 224)])
def test_the_short_side_is_resized_as_pil_does_and_the_middle_cut_out(size, resize, crop):
    pixels = pictures(2, *size)
    height, width = (int(resize * side / min(size)) for side in size)
    image = Image.fromarray(as_array(pixels[0])).resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - crop) // 2, (height - crop) // 2
    expected = np.array(image.crop((left, top, left + crop, top + crop)))
    ours = resize_and_crop(pixels, resize, crop)
    assert ours.dtype == torch.uint8 and ours.shape == (2, 3, crop, crop)
    assert np.array_equal(as_array(ours[0]), expected)
    assert torch.equal(ours[1], resize_and_crop(pixels[1:], resize, crop)[0])


@pytest.mark.parametrize("across", [True, False], ids=["wide", "high"])
def test_of_a_long_strip_only_the_middle_is_resized(across, monkeypatch):
    """The whole of a file of 5 KB would become 15 GB."""
    strip, asked = np.repeat(noise(1, 5000)[0, :, 0].numpy()[:, None], 20, axis=1), []  # [3, 20, W]
    picture = strip.transpose(1, 2, 0) if across else strip.transpose(2, 1, 0)
    image = Image.fromarray(np.ascontiguousarray(picture))
    whole = image.resize((56000, 224) if across else (224, 56000), Image.Resampling.BICUBIC)
    left, top = (whole.width - 224) // 2, (whole.height - 224) // 2
    expected = np.array(whole.crop((left, top, left + 224, top + 224))).astype(int)
    resize = Image.Image.resize

    def recorded(image, size, *args, **options):
        asked.append(size)
        return resize(image, size, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", recorded)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    difference = np.abs(as_array(resize_and_crop(pixels, 224, 224)[0]).astype(int) - expected)
    assert asked == [(224, 224)]
    assert difference.max() <= 1 and (difference > 0).mean() <= 0.02


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_gives_what_its_pictures_give_alone(mode):
    pixels = noise(90, 140)
    alone = torch.cat([resize_for_inception(row[None], mode) for row in pixels])
    assert torch.equal(resize_for_inception(pixels, mode), alone)


@pytest.mark.parametrize(
    "pixels",
    [
        torch.zeros(1, 3, 8, 8),
        torch.zeros(1, 8, 8, 3, dtype=torch.uint8),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        torch.zeros(0, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(1, 3, 0, 8, dtype=torch.uint8),
    ],
    ids=["floats", "channels last", "one picture", "no pictures", "no rows"],
)
def test_anything_but_uint8_pictures_is_refused(pixels):
    for resize in (
        lambda: resize_for_inception(pixels, "clean"),
        lambda: resize_and_crop(pixels, 8, 8),
    ):
        with pytest.raises(ValueError, match=r"Got pictures of shape \["):
            resize()


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="'bilinear'; expected one of torch-fidelity, clean, pyt"):
        resize_for_inception(noise(8, 8), "bilinear")
