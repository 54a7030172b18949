"""Every kind of picture file becomes the same kind of square, or is refused by name."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from multi_ipadapter.pictures.decode import MAX_PIXELS, BadPictureError, decode
from multi_ipadapter.pictures.fit import FITS, face_mask, fit_region, render
from multi_ipadapter.pictures.load import load_picture
from multi_ipadapter.pictures.open import open_dataset

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, kind: str, **options) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def left_red(size=(40, 20), mode="RGB") -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", size, BLUE)
    image.paste(RED, (0, 0, size[0] // 2, size[1]))
    return image.convert(mode)


def centre(image: Image.Image, x: float, y: float) -> tuple[int, ...]:
    return image.getpixel((int(x * image.width), int(y * image.height)))


def near(got, expected, tolerance=12) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation):
    upright = Image.new("RGB", (48, 32), BLUE)
    upright.paste(RED, (0, 0, 24, 16))  # red corner top left, green corner top right
    upright.paste(GREEN, (24, 0, 48, 16))
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image, size = decode(encoded(stored, "JPEG", quality=95, subsampling=0, exif=exif), "x.jpg")
    assert size == image.size == (48, 32)
    assert near(centre(image, 0.25, 0.25), RED) and near(centre(image, 0.75, 0.25), GREEN)
    assert near(centre(image, 0.25, 0.75), BLUE)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("CMYK", "JPEG"), ("CMYK", "TIFF"), ("P", "PNG"), ("RGBA", "WEBP"), ("RGB", "BMP")],
)
def test_colour_modes_become_rgb(mode, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    image, _ = decode(encoded(left_red(mode=mode), kind, **options), "x")
    assert image.mode == "RGB"
    assert near(centre(image, 0.25, 0.5), RED, 30) and near(centre(image, 0.75, 0.5), BLUE, 30)


def test_16_bit_grey_keeps_its_range():
    values = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(8, 0)
    image, _ = decode(encoded(Image.fromarray(values), "PNG"), "x.png")
    got = np.asarray(image)[0, :, 0].astype(int)
    assert np.abs(got - values[0] // 256).max() == 0  # Pillow's own convert() gives 255 nearly all


def test_transparency_becomes_white():
    rgba = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    rgba.paste((0, 0, 255, 255), (0, 0, 10, 20))
    image, _ = decode(encoded(rgba, "PNG"), "x.png")
    assert centre(image, 0.75, 0.5) == WHITE and centre(image, 0.25, 0.5) == BLUE
    palette = rgba.convert("RGB").quantize(4)
    transparent = palette.getpixel((15, 10))
    image, _ = decode(encoded(palette, "PNG", transparency=transparent), "x.png")
    assert centre(image, 0.75, 0.5) == WHITE and near(centre(image, 0.25, 0.5), BLUE)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_the_first_frame_of_an_animation_counts(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (GREEN, RED, BLUE)]
    file = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
    image, _ = decode(file, "x")
    assert near(centre(image, 0.5, 0.5), GREEN, 30)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_cut_off_file_is_refused_by_name(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    data = encoded(noise, kind).getvalue()
    with pytest.raises(BadPictureError, match=r"anna/1: damaged or cut off"):
        decode(io.BytesIO(data[: len(data) * 2 // 3]), "anna/1")


@pytest.mark.parametrize("data", [b"", b"hello" * 100, b"\xff\xd8\xff\xe0" + b"\0" * 50])
def test_what_is_no_picture_is_refused_by_name(data):
    with pytest.raises(BadPictureError, match="anna/1.jpg: not a picture"):
        decode(io.BytesIO(data), "anna/1.jpg")


def test_decoders_that_start_programs_do_not_run():
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    assert Image.open(io.BytesIO(eps)).format == "EPS"  # Pillow would take it
    with pytest.raises(BadPictureError, match="x.jpg: not a picture"):
        decode(io.BytesIO(eps), "x.jpg")


def test_a_huge_picture_is_refused_before_it_is_decoded():
    data = bytearray(encoded(Image.new("L", (8, 8)), "PNG").getvalue())
    side = int(MAX_PIXELS**0.5) + 1
    data[16:24] = struct.pack(">II", side, side)  # IHDR; its checksum is mended below
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    with pytest.raises(BadPictureError, match=f"x.png: more than {MAX_PIXELS:,} pixels"):
        decode(io.BytesIO(data), "x.png")


def test_damaged_exif_does_not_lose_the_picture():
    file = encoded(left_red(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert decode(file, "x.jpg")[1] == (40, 20)


def test_fits():
    image = left_red((40, 20))
    shown = {
        fit: render(image, fit_region(40, 20, 20, fit), 20, (9, 9, 9)) for fit in FITS
    }  # crop: x 10..30, both colours; squash: all; pad: borders above and below
    assert all(square.shape == (20, 20, 3) for square in shown.values())
    assert near(shown["crop"][10, 2], RED) and near(shown["crop"][10, 17], BLUE)
    assert (shown["pad"][2] == 9).all() and (shown["pad"][17] == 9).all()
    assert near(shown["pad"][10, 2], RED) and near(shown["pad"][10, 17], BLUE)
    assert not (shown["squash"] == 9).all(-1).any()
    with pytest.raises(ValueError, match="Got fit 'stretch'; expected one of crop, pad, squash"):
        fit_region(40, 20, 20, "stretch")


def test_crop_keeps_the_proportions_of_a_circle():
    y, x = np.mgrid[0:150, 0:300]
    disc = ((x - 150) ** 2 + (y - 75) ** 2 < 50**2).astype(np.uint8) * 255
    square = render(Image.fromarray(disc), fit_region(300, 150, 60, "crop"), 60, 0) > 127
    width, height = square.any(0).sum(), square.any(1).sum()
    assert width == height == 40


@pytest.fixture
def one_identity(tmp_path):
    def make(**files: Image.Image):
        (tmp_path / "anna").mkdir()
        for name, image in files.items():
            image.save(tmp_path / "anna" / f"{name}.jpg", quality=95, subsampling=0)
        return open_dataset(tmp_path)

    return make


def test_load_picture(one_identity):
    index = one_identity(a=left_red((300, 200)), b=left_red((20, 20)))
    for number in range(2):
        pixels, mask = load_picture(index, number, 64, "crop")
        assert pixels.shape == (64, 64, 3) and pixels.dtype == torch.uint8 and mask is None
        assert near(pixels[32, 10].tolist(), RED) and near(pixels[32, 54].tolist(), BLUE)


def test_a_large_jpeg_decoded_small_shows_the_same(one_identity):
    index = one_identity(a=left_red((2000, 1200)), b=left_red())
    pixels, _ = load_picture(index, 0, 64, "crop")
    with index.open(0) as file:
        whole = decode(file, "a.jpg")[0]
    assert whole.size == (2000, 1200)
    expected = render(whole, fit_region(2000, 1200, 64, "crop"), 64, WHITE)
    assert np.abs(pixels.numpy().astype(int) - expected.astype(int)).mean() < 1


def test_a_file_that_vanished_is_refused_by_name(one_identity):
    index = one_identity(a=left_red(), b=left_red())
    (index.root / "anna" / "b.jpg").unlink()
    with pytest.raises(BadPictureError, match=r"anna/b.jpg: cannot be opened"):
        load_picture(index, 1, 64, "crop")


ALIGNED = (69.0, 109, 106, 113, 77, 142, 73, 152, 108, 154)  # a CelebA row


def test_face_mask_covers_the_face_only():
    mask = face_mask(ALIGNED, fit_region(178, 218, 64, "crop"), 64)
    assert mask.shape == (64, 64) and mask.min() >= 0 and mask.max() == 1
    scale, top = 64 / 178, 20
    for x, y in zip(ALIGNED[::2], ALIGNED[1::2], strict=True):
        assert mask[int((y - top) * scale), int(x * scale)] == 1
    assert mask[0].max() == 0 and mask[:, 0].max() == 0 and mask[:, -1].max() == 0
    assert 0.2 < mask.mean() < 0.6


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_floating_point_tiffs_keep_their_grey_levels(top):
    ramp = np.linspace(0, top, 64, dtype=np.float32)[None].repeat(8, 0)
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, "TIFF")
    file.seek(0)
    pixels = np.asarray(decode(file, "ramp.tif")[0]).astype(float)
    assert np.abs(pixels[..., 1] - ramp * 255 / top).max() <= 1


def test_face_mask_follows_the_picture():
    """Moved and scaled landmarks give the moved and scaled mask."""
    points = np.reshape(ALIGNED, (5, 2))
    plain = face_mask(ALIGNED, (0, 0, 200, 200), 100)
    moved = face_mask(tuple((points * 3 + 50).ravel()), (50, 50, 650, 650), 100)
    assert (plain - moved).abs().max() < 1e-5
    upside_down = face_mask(tuple((200 - points).ravel()), (0, 0, 200, 200), 100)
    assert (plain.flip(0, 1) - upside_down).abs().max() < 1e-5
    assert face_mask((5.0,) * 10, (0, 0, 10, 10), 8) is None
