"""insightface packs through the real code, on graphs whose faces and embeddings are known."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest

from multi_ipadapter.faces.insight import (
    MissingPackageError,
    MissingPackError,
    load_insight,
    load_pack,
)

from .face_graphs import (
    paint,
    shape,
    write_coded_recogniser,
    write_pack,
    write_shaped_detector,
)

SHAPES = [shape(1.0), shape(2.0, roll=15), shape(0.9, yaw=0.5, at=(20, 10))]
EMBEDDINGS = np.random.default_rng(0).normal(0, 3, (256, 512)).astype(np.float32)


def background(width: int = 640, height: int = 640) -> np.ndarray:
    image = np.random.default_rng(1).integers(0, 200, (height, width, 3), np.uint8)
    image[..., 0] //= 4  # nowhere red
    return image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pack(tmp_path_factory.mktemp("insightface") / "buffalo_l", SHAPES, EMBEDDINGS)


@pytest.fixture(scope="module")
def analyser(folder):
    return load_pack(folder)


def test_faces_come_largest_first_with_their_boxes_landmarks_and_embeddings(analyser):
    image = background()
    placed = [(32, 64, 0, 7), (256, 128, 1, 200), (448, 480, 2, 33)]
    for x, y, number, code in placed:
        paint(image, x, y, SHAPES[number], number, code)
    faces = analyser.detect(image)
    assert len(faces) == 3
    assert [round(face.size) for face in faces] == [
        round(np.sqrt(80 * 100) * scale) for scale in (2.0, 1.0, 0.9)
    ]
    for face, (x, y, number, code) in zip(faces, [placed[n] for n in (1, 0, 2)], strict=True):
        expected = SHAPES[number][4:].reshape(5, 2) + [x, y]
        assert np.abs(face.landmarks - expected).max() <= 1e-3
        assert np.abs(face.box - SHAPES[number][:4] * [-1, -1, 1, 1] - [x, y, x, y]).max() <= 1e-3
        assert face.landmarks.dtype == face.box.dtype == np.float32 and 0.5 < face.score <= 1
        assert np.array_equal(analyser.embed(image, face), EMBEDDINGS[code])


def test_pictures_are_red_green_blue(analyser):
    image = background()
    paint(image, 64, 64, SHAPES[0], 0, 3)
    assert analyser.detect(image) and not analyser.detect(image[..., ::-1])


@pytest.mark.parametrize(("zoom", "side"), [(2, 1280), (0.5, 320)])
def test_pictures_of_other_sizes_are_searched(analyser, zoom, side):
    image = background(side, side)
    paint(image, 128, 192, SHAPES[1], 1, 99, zoom)
    (face,) = analyser.detect(image)
    expected = (SHAPES[1][4:].reshape(5, 2) + [128, 192]) * zoom
    assert np.abs(face.landmarks - expected).max() <= 1e-3
    assert np.array_equal(analyser.embed(image, face), EMBEDDINGS[99])


def test_close_ups_are_found_at_a_smaller_size(folder, analyser):
    """Red in every fifth column only, which 128 pixels sample: at 640 and 320 it is no face."""
    image = background()
    paint(image, 32, 32, SHAPES[0], 0, 5, zoom=5)
    others = np.arange(640) % 5 != 2
    image[32 * 5 : 64 * 5, others, 0] = 0
    (face,) = analyser.detect(image)
    assert np.abs(face.landmarks - (SHAPES[0][4:].reshape(5, 2) + 32) * 5).max() <= 1e-2
    files = folder / "det_10g.onnx", folder / "w600k_r50.onnx"
    assert load_insight(*files, sizes=(640, 320)).detect(image) == []
    assert len(load_insight(*files, sizes=(128,)).detect(image)) == 1


def test_a_close_up_is_found_beside_somebody_small(analyser):
    """Each at a size of its own; the large one is no less there."""
    image = background()
    paint(image, 32, 32, SHAPES[0], 0, 5, zoom=5)
    image[32 * 5 : 64 * 5, np.arange(640) % 5 != 2, 0] = 0  # see above
    paint(image, 480, 480, SHAPES[0], 0, 7)
    large, small = analyser.detect(image)
    assert large.size == pytest.approx(5 * small.size, rel=0.01)
    assert np.array_equal(analyser.embed(image, large), EMBEDDINGS[5])
    assert np.array_equal(analyser.embed(image, small), EMBEDDINGS[7])


def test_a_small_face_in_a_large_picture_is_found(folder, analyser):
    """At 640 pixels its red cell has 16."""
    image = background(1280, 1280)
    paint(image, 416, 928, SHAPES[0], 0, 7)
    (face,) = analyser.detect(image)
    assert np.abs(face.landmarks - SHAPES[0][4:].reshape(5, 2) - [416, 928]).max() <= 1e-3
    assert np.array_equal(analyser.embed(image, face), EMBEDDINGS[7])
    assert analyser.detect(background(1280, 1280)) == []


def test_a_face_that_is_found_at_both_sizes_counts_once(folder):
    """The detector sees the picture at 128 pixels both times."""
    files = folder / "det_10g.onnx", folder / "w600k_r50.onnx"
    image = background(256, 256)
    paint(image, 32, 32, SHAPES[0], 0, 5, zoom=2)
    once = load_insight(*files, sizes=(128,)).detect(image)
    (face,) = load_insight(*files, sizes=(128, 128)).detect(image)
    assert len(once) == 1 and np.array_equal(face.landmarks, once[0].landmarks)


def test_a_detector_of_a_fixed_size_has_only_that(tmp_path):
    pack = write_pack(tmp_path / "own", SHAPES, EMBEDDINGS, ("det.onnx", "rec.onnx"), size=320)
    analyser = load_pack(pack)
    image = background()
    paint(image, 32, 64, SHAPES[0], 0, 7, zoom=2)
    (face,) = analyser.detect(image)
    assert np.abs(face.landmarks - (SHAPES[0][4:].reshape(5, 2) + [32, 64]) * 2).max() <= 1e-3
    assert len(analyser.sizes) == 1
    assert analyser.detect(background()) == []


def test_names_say_which_embeddings_may_be_compared(folder, tmp_path):
    assert load_pack(folder).recogniser == "w600k_r50"
    assert load_pack(folder).name == "insightface buffalo_l"
    own = tmp_path / "auraface"  # another network in a file of the same name
    write_pack(own, SHAPES, EMBEDDINGS, ("scrfd_10g_bnkps.onnx", "glintr100.onnx"))
    assert load_pack(own).recogniser == "auraface/glintr100"


def test_doubly_nested_packs_and_their_further_models_are_left_alone(tmp_path):
    outer = tmp_path / "antelopev2"
    names = ("scrfd_10g_bnkps.onnx", "glintr100.onnx")
    write_pack(outer / "antelopev2", SHAPES, EMBEDDINGS, names)
    for name in ("1k3d68.onnx", "2d106det.onnx", "genderage.onnx"):
        (outer / "antelopev2" / name).write_bytes(b"never opened")
    assert load_pack(outer).recogniser == "glintr100"
    assert load_pack(outer / "antelopev2").recogniser == "glintr100"


def test_an_own_pack_needs_exactly_one_detector_and_one_recogniser(tmp_path):
    own = write_pack(tmp_path / "own", SHAPES, EMBEDDINGS, ("b.onnx", "a.onnx"))
    assert load_pack(own).recogniser == "a"
    shutil.copy(own / "a.onnx", own / "c.onnx")
    with pytest.raises(MissingPackError, match=r"Got a.onnx, c.onnx for face recognition in .*own"):
        load_pack(own)
    (own / "a.onnx").unlink()
    (own / "c.onnx").unlink()
    with pytest.raises(MissingPackError, match="Got none for face recognition"):
        load_pack(own)


def test_missing_packs_and_files_are_named(folder, tmp_path):
    expected = "buffalo_l does not hold det_10g.onnx and w600k_r50.onnx"
    with pytest.raises(MissingPackError, match=expected):
        load_pack(tmp_path / "buffalo_l")
    (tmp_path / "buffalo_l").mkdir()
    shutil.copy(folder / "det_10g.onnx", tmp_path / "buffalo_l")
    with pytest.raises(MissingPackError, match=expected):
        load_pack(tmp_path / "buffalo_l")
    with pytest.raises(MissingPackError, match="own does not hold a face detector and a recogn"):
        load_pack(tmp_path / "own")


def test_damaged_files_are_named(folder, tmp_path):
    pack = shutil.copytree(folder, tmp_path / "buffalo_l")
    whole = (pack / "w600k_r50.onnx").read_bytes()
    (pack / "w600k_r50.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="w600k_r50.onnx .* is not a complete ONNX model"):
        load_pack(pack)


def test_a_published_packs_files_must_be_of_their_kind(tmp_path):
    pack = tmp_path / "buffalo_l"
    pack.mkdir()
    write_coded_recogniser(pack / "det_10g.onnx", EMBEDDINGS)
    write_shaped_detector(pack / "w600k_r50.onnx", SHAPES)
    with pytest.raises(ValueError, match="det_10g.onnx is not a model for face detection"):
        load_pack(pack)


@pytest.mark.parametrize("version", ["0.7.3", "1.0.1", "2.0"])
def test_an_older_insightface_is_told_of_by_the_command_that_updates_it(
    version, folder, monkeypatch
):
    monkeypatch.setattr("insightface.__version__", version)
    expected = f"Got insightface {version}; expected 2.1 .*pip install --upgrade .insightface>=2.1"
    with pytest.raises(MissingPackageError, match=expected):
        load_pack(folder)


@pytest.mark.parametrize("package", ["insightface", "onnxruntime"])
def test_without_the_packages_the_command_to_install_them_is_told(package, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match='pip install "insightface>=2.1" onnxruntime'):
        load_pack(folder)
