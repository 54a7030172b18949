"""Faces that are not found at once: on their side, or filling the picture; and whose counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from multi_ipadapter.evaluation.networks.face import Face as FaceNetwork
from multi_ipadapter.faces.find import find_faces, main_face
from multi_ipadapter.faces.insight import load_insight, load_pack
from multi_ipadapter.faces.prepare import prepare
from multi_ipadapter.faces.results import Settings
from multi_ipadapter.nodes.steering.face_features import embed_pictures, read_faces
from multi_ipadapter.pictures.decode import UnusablePicturesError

from .face_graphs import darken_below, paint, shape, write_pack
from .test_faces_choose import unit
from .test_faces_prepare import FRONT, LARGE, OTHER, SHAPES, embeddings, given, scene

TURNS = pytest.mark.parametrize("quarters", [1, 2, 3])


@pytest.fixture(scope="module")
def upright(tmp_path_factory):
    """Finds nobody who lies on the side, as real detectors seldom do."""
    folder = tmp_path_factory.mktemp("upright") / "buffalo_l"
    return load_pack(write_pack(folder, SHAPES, embeddings(), upright=True))


def standing(seed: int, code: int, x: int = 96, y: int = 64) -> np.ndarray:
    """Not square: 640 pixels high, 512 wide."""
    image = scene(seed, (x, y, FRONT, code))[:, :512]
    darken_below(image, x, y)
    return np.ascontiguousarray(image)


@TURNS
def test_faces_on_their_side_are_found_where_they_are(upright, quarters):
    image = standing(1, 7)
    (wanted,) = upright.detect(image)
    turned = np.ascontiguousarray(np.rot90(image, -quarters))
    assert upright.detect(turned) == []
    (face,) = find_faces(upright, turned)
    assert face.quarters == quarters and wanted.quarters == 0
    # Marked in the picture and turned back with it, box and landmarks are those of the upright.
    marks = np.zeros(turned.shape[:2], int)
    for number, (x, y) in enumerate(np.rint(face.landmarks).astype(int)):
        marks[y, x] = number + 1
    back = np.rot90(marks, quarters)
    for number, point in enumerate(wanted.landmarks):
        ((y, x),) = np.argwhere(back == number + 1)
        assert np.abs(point - [x, y]).max() <= 0.51
    inside = np.zeros(turned.shape[:2], bool)
    left, top, right, bottom = np.rint(face.box).astype(int)
    inside[top:bottom, left:right] = True
    rows, columns = np.nonzero(np.rot90(inside, quarters))
    edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(np.array(edges) - wanted.box).max() <= 0.51
    assert np.array_equal(upright.embed(turned, face), embeddings()[7])
    assert main_face(upright, turned).quarters == quarters


@TURNS
@pytest.mark.parametrize("kind", ["loose", "aligned"])
def test_prepare_turns_them_upright_and_says_so(upright, quarters, kind):
    image = standing(1, 7)
    turned = np.ascontiguousarray(np.rot90(image, -quarters))
    settings = Settings(size=128, kind=kind)
    wanted = prepare(given(a=image), upright, settings)
    result = prepare(given(a=turned), upright, settings)
    assert np.abs(result.faces[0].astype(int) - wanted.faces[0]).mean() < 3
    assert np.abs(result.masks[0] - wanted.masks[0]).mean() < 0.02
    how = "upside down" if quarters == 2 else "on its side"
    assert f"({how}: turned upright)" in str(result) and "turned" not in str(wanted)
    small = prepare(given(a=image, b=turned), upright, Settings(at_least=80, keep=1))
    assert f"({how}: turned upright)" in str(small)


def test_the_one_upright_counts_though_others_lie(upright):
    image = scene(4, (64, 64, LARGE, OTHER), (416, 416, FRONT, 7))
    darken_below(image, 416, 416)
    image[64:96, 80:96, 0] = 0
    (face,) = find_faces(upright, image)
    assert face.quarters == 0 and round(face.size) == 89


# ---- whose identity is measured ----------------------------------------------------------------


@pytest.fixture(scope="module")
def analyser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("insightface") / "buffalo_l"
    return load_pack(write_pack(folder, SHAPES, embeddings()))


def measured(analyser, image: np.ndarray) -> np.ndarray:
    pixels = np.ascontiguousarray(image.transpose(2, 0, 1))[None]
    return FaceNetwork(analyser)(torch.from_numpy(pixels))["embedding"][0].numpy()


def test_identity_is_that_of_the_face_that_adapters_read(analyser):
    """The one in the middle of a square picture, though a neighbour is larger."""
    image = scene(5, (256, 256, FRONT, 7), (32, 32, LARGE, OTHER))
    assert len(analyser.detect(image)) == 2 and analyser.detect(image)[0].size > 150
    assert measured(analyser, image) @ unit(embeddings()[7]) > 0.999
    wide = image[:, :608]
    assert measured(analyser, wide) @ unit(embeddings()[OTHER]) > 0.999


def test_identity_is_measured_of_a_face_that_only_a_border_shows(tmp_path):
    """Red in every fifth column only: what is found is found of a picture five times as large."""
    shapes = [shape(0.5, at=(20, 20))]
    folder = write_pack(tmp_path / "buffalo_l", shapes, embeddings())
    analyser = load_insight(folder / "det_10g.onnx", folder / "w600k_r50.onnx", sizes=(128,))
    wide = np.zeros((640, 640, 3), np.uint8)
    paint(wide, 32, 32, shapes[0], 0, 7, zoom=5)
    wide[:, np.arange(640) % 5 != 2, 0] = 0
    image = np.ascontiguousarray(wide[160:480, 160:480])
    assert analyser.detect(image) == []
    (found,) = analyser.detect(wide)
    face = main_face(analyser, image)
    assert main_face(analyser, image).size == find_faces(analyser, image)[0].size
    assert len(prepare(given(a=image), analyser, Settings(size=128)).faces) == 1
    assert np.abs(face.landmarks + 160 - found.landmarks).max() < 1e-3 and face.quarters == 0
    assert measured(analyser, image) @ unit(embeddings()[7]) > 0.999


@pytest.fixture
def odd(tmp_path):
    """Faces of code 0 have an embedding; of 1 one of zeros, of 2 NaN; shape 1 has no landmarks."""
    spot = shape()
    spot[4:] = 56
    known = np.ones((3, 512), np.float32)
    known[1], known[2] = 0, np.nan
    return load_pack(write_pack(tmp_path / "buffalo_l", [shape(), spot], known))


def with_face(number: int, code: int) -> np.ndarray:
    image = np.zeros((640, 640, 3), np.uint8)
    paint(image, 192, 192, shape(), number, code)
    return image


def test_what_cannot_be_recognised_costs_its_own_picture_only(odd):
    """In Rank as in Encode and in training."""
    pictures = np.stack([with_face(0, 0), with_face(1, 0), with_face(0, 1), with_face(0, 2)])
    assert [len(odd.detect(picture)) for picture in pictures] == [1, 1, 1, 1]
    said = FaceNetwork(odd)(torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()))
    assert said["found"].flatten().tolist() == [1, 0, 0, 0]
    assert torch.equal(said["embedding"].norm(dim=1).round(decimals=5), said["found"].flatten())
    images = {f"image_{n}": torch.from_numpy(p)[None] / 255 for n, p in enumerate(pictures)}
    read = read_faces(odd, images)
    assert read.places == [0] and len(read.without) == 3
    with pytest.raises(ValueError, match="gives no usable numbers for any face.*damaged"):
        read_faces(odd, {"image_2": images["image_2"], "image_3": images["image_3"]})
    with pytest.raises(UnusablePicturesError) as caught:
        embed_pictures(odd, torch.from_numpy(pictures))
    reasons = caught.value.reasons
    assert [why.partition(" ")[0] for why in reasons.values()] == ["no", "the", "the"]
    assert list(reasons) == [1, 2, 3]


@pytest.mark.parametrize("shape", [(1, 900, 3), (900, 1, 3), (3, 2100, 3)])
def test_a_line_has_no_face(analyser, shape):
    assert find_faces(analyser, np.full(shape, 255, np.uint8)) == []


def test_the_border_is_put_around_a_small_copy(monkeypatch, analyser):
    """A wide picture with one of half its width all around would be 32 times as large."""
    seen = []
    detect = analyser.detect
    monkeypatch.setattr(analyser, "detect", lambda x: seen.append(x.shape) or detect(x))
    find_faces(analyser, np.zeros((500, 8000, 3), np.uint8))
    assert max(height * width for height, width, _ in seen) <= 500 * 8000
