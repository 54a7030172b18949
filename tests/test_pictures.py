"""Sources of pictures for an evaluation: folders, lists, IMAGE batches, pairs."""

from __future__ import annotations

import os

import folder_paths
import numpy as np
import pytest
import torch
from PIL import Image

import nodes
from multi_ipadapter.evaluation.pairs import PairSource
from multi_ipadapter.pictures.decode import BadPictureError
from multi_ipadapter.pictures.sources import FolderSource, ListSource, TensorSource

from .evaluation_world import drawn, write_pictures


def test_a_folder_is_read_with_all_below_it_in_order(tmp_path):
    write_pictures(tmp_path / "b", 2)
    write_pictures(tmp_path / "a" / "deep", 1)
    (tmp_path / "b" / "000.txt").write_text("a prompt")
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / ".hidden").mkdir()
    write_pictures(tmp_path / ".hidden", 1)
    (tmp_path / "scan.heic").write_bytes(b"x")
    source = FolderSource(tmp_path)
    names = [source.name(i) for i in range(len(source))]
    assert names == ["a/deep/000.png", "b/000.png", "b/001.png"]
    assert [(s.path, s.reason.split(",")[0]) for s in source.skipped] == [
        ("scan.heic", "is none of .jpg")
    ]
    picture = source.load(1)
    assert picture.format == "PNG" and picture.pixels.dtype == torch.uint8
    assert np.array_equal(picture.pixels.permute(1, 2, 0), drawn(0))


def test_links_that_lead_out_of_the_folder_are_not_followed(tmp_path):
    inside, outside = tmp_path / "inside", write_pictures(tmp_path / "outside", 2)
    write_pictures(inside, 1)
    os.symlink(outside / "001.png", inside / "linked.png")
    os.symlink(inside / "000.png", inside / "own.png")
    os.symlink(outside, inside / "folder")
    source = FolderSource(inside)
    assert [source.name(i) for i in range(len(source))] == ["000.png", "own.png"]
    reasons = {s.path: s.reason for s in source.skipped}
    assert "leads out" in reasons["linked.png"] and "link to a folder" in reasons["folder"]


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "scan.heic").write_bytes(b"x")
    with pytest.raises(ValueError, match="There is no picture in .* Left out: 1 .scan.heic"):
        FolderSource(tmp_path)
    with pytest.raises(ValueError, match="There is no folder"):
        FolderSource(tmp_path / "missing")


def test_a_batch_scores_like_the_files_that_comfyui_saves(tmp_path):
    images = torch.rand(3, 16, 24, 3, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))
    try:
        nodes.SaveImage().save_images(images)
    finally:
        folder_paths.set_output_directory(before)
    files, batch = FolderSource(tmp_path), TensorSource(images)
    assert len(files) == len(batch) == 3
    for number in range(3):
        assert torch.equal(files.load(number).pixels, batch.load(number).pixels)


def test_batches_of_several_sizes_count_on(tmp_path):
    small, large = torch.zeros(2, 8, 8, 3), torch.ones(1, 16, 8, 3)
    source = TensorSource([small, large], "reference")
    assert len(source) == 3 and source.name(2) == "reference 2"
    assert source.load(2).pixels.shape == (3, 16, 8)
    assert source.fingerprint(0) == source.fingerprint(1) != source.fingerprint(2)


@pytest.mark.parametrize(
    "images", [torch.zeros(8, 8, 3), torch.zeros(1, 8, 8, 2), torch.zeros(1, 8, 8, 3).int()]
)
def test_what_is_no_image_batch_is_refused(images):
    with pytest.raises(ValueError, match="expected an IMAGE"):
        TensorSource(images)
    with pytest.raises(ValueError, match="Got no image"):
        TensorSource([])


def test_pixels_that_are_not_finite_are_a_bad_picture():
    images = torch.zeros(1, 8, 8, 3)
    images[0, 3, 3, 1] = torch.nan
    with pytest.raises(BadPictureError, match="--fp32-vae"):
        TensorSource(images).load(0)


def test_bad_files_are_bad_pictures(tmp_path):
    write_pictures(tmp_path, 1)
    (tmp_path / "cut.png").write_bytes((tmp_path / "000.png").read_bytes()[:60])
    (tmp_path / "text.jpg").write_text("no picture")
    source = ListSource([tmp_path / "cut.png", tmp_path / "text.jpg", tmp_path / "gone.png"])
    for number, reason in enumerate(["damaged or cut off", "not a picture", "cannot be opened"]):
        with pytest.raises(BadPictureError, match=reason):
            source.load(number)
    with pytest.raises(BadPictureError, match="gone.png: cannot be opened"):
        source.fingerprint(2)


def test_a_changed_file_has_another_fingerprint(tmp_path):
    path = write_pictures(tmp_path, 1) / "000.png"
    source = ListSource([path])
    before = source.fingerprint(0)
    assert source.fingerprint(0) == before
    Image.fromarray(drawn(5)).save(path)
    os.utime(path, ns=(1, 1))
    assert source.fingerprint(0) != before


def test_a_picture_too_small_to_compare_is_a_bad_one_on_either_side():
    large, small = (TensorSource(torch.zeros(1, n, 40, 3), f"of {n}") for n in (40, 30))
    for first, second in ((large, small), (small, large)):
        pair = PairSource(first, second, [(0, 0)])
        assert pair.load(0).pixels.shape[0] == 6
        pair.smallest = 31
        with pytest.raises(BadPictureError, match="of 30 0: is 40x30; .* at least 31 pixels"):
            pair.load(0)


def test_a_pair_takes_the_size_of_its_first_picture():
    first, second = TensorSource(torch.zeros(1, 16, 8, 3)), TensorSource(torch.ones(1, 32, 32, 3))
    pair = PairSource(first, second, [(0, 0)])
    pixels = pair.load(0).pixels
    assert pixels.shape == (6, 16, 8) and pixels.dtype == torch.uint8
    assert (pixels[:3] == 0).all() and (pixels[3:] == 255).all()
