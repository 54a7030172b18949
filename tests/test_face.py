"""Faces through insightface and onnxruntime, on small graphs whose answers are known."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from multi_ipadapter.evaluation.networks.face import MissingPackageError, load_face

from .face_graphs import projection, write_detector, write_recogniser
from .network_files import as_array, sha256

SIZE = 320


def expected_embedding(picture: torch.Tensor, x: int, y: int) -> np.ndarray:
    """What the recogniser gives for the face whose crop begins at (x, y)."""
    crop = (as_array(picture)[y : y + 112, x : x + 112].astype(np.float32) - 127.5) / 127.5
    cells = crop.reshape(4, 28, 4, 28, 3).mean((1, 3)).transpose(2, 0, 1).reshape(1, 48)
    (embedding,) = cells @ projection(512)
    return embedding / np.linalg.norm(embedding)


def background(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    picture = torch.randint(0, 250, (3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    picture[0] //= 4  # nowhere red
    return picture


def put_face(picture: torch.Tensor, x: int, y: int, red: int = 255, blue: int = 128) -> None:
    cell = picture[:, y : y + 32, x : x + 32]
    cell[0], cell[2] = red, blue


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    return write_detector(folder / "det_10g.onnx"), write_recogniser(folder / "w600k_r50.onnx")


@pytest.fixture(scope="module")
def network(files):
    return load_face(*files, sizes=(SIZE,))


def test_a_face_is_found_aligned_and_embedded(network):
    pixels = torch.stack([background(seed) for seed in range(3)])
    put_face(pixels[0], 64, 96)
    put_face(pixels[2], 160, 32)
    result = network(pixels)
    assert result["embedding"].shape == (3, 512) and result["found"].shape == (3, 1)
    assert {value.dtype for value in result.values()} == {torch.float32}
    assert result["found"].flatten().tolist() == [1, 0, 1]
    assert torch.equal(result["embedding"][1], torch.zeros(512))
    for row, x, y in ((0, 64, 96), (2, 160, 32)):
        got = result["embedding"][row].numpy()
        assert abs(np.linalg.norm(got) - 1) <= 1e-6
        assert got @ expected_embedding(pixels[row], x, y) >= 1 - 1e-4
    first, last = result["embedding"][0], result["embedding"][2]
    assert first @ last < 0.999


def test_the_largest_face_counts_not_the_surest(network):
    picture = background(5)
    put_face(picture, 32, 32, red=255, blue=0)
    put_face(picture, 160, 160, red=215, blue=255)
    embedding = network(picture[None])["embedding"][0].numpy()
    assert embedding @ expected_embedding(picture, 160, 160) >= 1 - 1e-4
    assert embedding @ expected_embedding(picture, 32, 32) < 0.999


def test_pictures_of_any_size_are_searched(network):
    picture = background(7)[:, :288]
    put_face(picture, 96, 64)
    twice = picture.repeat_interleave(2, 1).repeat_interleave(2, 2)
    for pixels in (picture[None], twice[None]):
        result = network(pixels)
        assert result["found"].item() == 1
        assert result["embedding"][0].numpy() @ expected_embedding(picture, 96, 64) >= 0.99


def test_the_network_says_what_its_embeddings_depend_on(network, files):
    assert network.name == "face-w600k_r50" and network.resize == f"main-face-{SIZE}"
    assert network.weights == f"{sha256(files[0])}+{sha256(files[1])}"
    assert network.outputs == {"embedding": 512, "found": 1}
    assert load_face(*files).resize == "main-face-640-128"


def test_files_in_each_others_place_are_refused(files):
    with pytest.raises(ValueError, match="w600k_r50.onnx is not a model for face detection"):
        load_face(files[1], files[1])
    with pytest.raises(ValueError, match="det_10g.onnx is not a model for face recognition"):
        load_face(files[0], files[0])


def test_a_detector_without_landmarks_is_refused(files, tmp_path):
    detector = write_detector(tmp_path / "scrfd_10g.onnx", landmarks=False)
    with pytest.raises(ValueError, match="scrfd_10g.onnx finds faces without landmarks"):
        load_face(detector, files[1])


def test_a_recogniser_of_another_width_is_refused(files, tmp_path):
    recogniser = write_recogniser(tmp_path / "small.onnx", width=128)
    with pytest.raises(ValueError, match="small.onnx gives embeddings of width 128, expected 512"):
        load_face(files[0], recogniser)


def test_missing_and_damaged_files_are_refused(files, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file none.onnx"):
        load_face(tmp_path / "none.onnx", files[1])
    broken = tmp_path / "broken.onnx"
    for content in (b"", b"not a model", files[1].read_bytes()[:1000]):
        broken.write_bytes(content)
        with pytest.raises(ValueError, match="broken.onnx .* is not a complete ONNX model"):
            load_face(files[0], broken)


@pytest.mark.parametrize("size", [0, 31, 100, -32])
def test_a_detection_size_that_is_no_multiple_of_32_is_refused(size, files):
    with pytest.raises(ValueError, match=f"Got detection size {size}; expected a multiple of 32"):
        load_face(*files, sizes=(640, size))


@pytest.mark.parametrize("package", ["insightface", "onnxruntime"])
def test_without_the_packages_the_command_to_install_them_is_told(package, files, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match='pip install "insightface>=2.1" onnxruntime'):
        load_face(*files)
