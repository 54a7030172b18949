"""ComfyUI's MediaPipe detector as a face analyser, with generated weights in its file layout."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest
import torch
from comfy_extras.mediapipe.face_landmarker import FaceLandmarker
from safetensors.torch import load_file, save_file

from multi_ipadapter.faces.align import aligned_transform, template
from multi_ipadapter.faces.analysis import Face
from multi_ipadapter.nodes.faces.analysis import LoadFaceAnalysis, load_analyser
from multi_ipadapter.nodes.faces.mediapipe import (
    MissingMediaPipeError,
    five_points,
    load_mediapipe,
)
from multi_ipadapter.nodes.faces.prepare import PrepareFaces

from .face_graphs import shape, write_pack

_SETS = ("face_oval", "left_eye", "right_eye", "left_eyebrow", "right_eyebrow", "lips")


def write_weights(folder) -> None:
    """Random weights; biases make the close-range detector find one face, where a cell is bright.

    Its landmarks are a fixed grid on the face: the mesh's last layer gives its biases only.
    """
    torch.manual_seed(0)
    tensors = {}
    for variant in ("short", "full"):
        for name, value in FaceLandmarker(detector_variant=variant).state_dict().items():
            name = name.replace("detector.", f"detector_{variant}.")
            tensors[name] = value.clone()
    _find_everywhere(tensors)
    tensors["mesh.head_landmarks.weight"].zero_()
    tensors["mesh.head_landmarks.bias"].copy_(torch.from_numpy(mesh_points().ravel()))
    for name in (*_SETS, "irises", "nose", "tesselation"):
        tensors[f"topology.{name}"] = torch.zeros(1, 2, dtype=torch.int32)
    tensors["canonical_vertices"] = torch.randn(468, 3)
    tensors["procrustes_indices"] = torch.arange(4)
    tensors["procrustes_weights"] = torch.ones(4)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "mediapipe_face_fp32.safetensors")


def _find_everywhere(tensors: dict) -> None:
    """The coarse head says "face" everywhere, with one box for all cells: they become one face."""
    for name in ("cls_16", "cls_8", "cls_conv", "cls_dw"):
        for variant in ("short", "full"):
            key = f"detector_{variant}.{name}"
            if f"{key}.weight" in tensors:
                tensors[f"{key}.weight"].zero_()
                tensors[f"{key}.bias"].fill_(-9.0)
    tensors["detector_short.cls_8.bias"][0] = 5.0
    tensors["detector_short.reg_8.weight"].zero_()
    values = torch.tensor([0.0, 0, 256, 256, -30, -20, 30, -20, 0, 0, 0, 30, -60, -10, 60, -10])
    tensors["detector_short.reg_8.bias"].copy_(values.repeat(6))


def mesh_points() -> np.ndarray:
    """478 points in 192 pixels, [478, 3]; those of the five landmarks where ArcFace has them."""
    points = np.zeros((478, 3), np.float32)
    points[:, :2] = np.random.default_rng(0).uniform(60, 130, (478, 2))
    five = template(112) + 40
    for at, numbers in enumerate(((33, 133, 159, 145), (362, 263, 386, 374), (1,), (61,), (291,))):
        around = np.array([[-6, 0], [6, 0], [0, -3], [0, 3]]) if len(numbers) == 4 else [[0, 0]]
        points[list(numbers), :2] = five[at] + around
    return points


@pytest.fixture
def weights(base, monkeypatch):
    import folder_paths

    folder = base / "models" / "detection"
    write_weights(folder)
    table = folder_paths.folder_names_and_paths
    table["detection"] = ([str(folder)], folder_paths.supported_pt_extensions)
    return folder


def test_the_five_landmarks_are_eyes_nose_and_mouth_as_seen_in_the_picture():
    five = five_points(mesh_points()[:, :2])
    assert np.abs(five - template(112) - 40).max() <= 1e-4
    found = Face(np.float32([40, 40, 152, 152]), five, 0.9)
    turn = aligned_transform(found, 112)[:, :2]
    assert np.abs(turn - np.eye(2)).max() <= 1e-4  # neither turned nor mirrored


def test_comfyuis_detector_finds_faces_that_prepare_cuts_out(base, weights):
    analyser = load_mediapipe()
    assert analyser.recogniser == "" and analyser.name == "mediapipe"
    picture = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    faces = analyser.detect(picture)
    assert faces and faces == sorted(faces, key=lambda face: -face.size)
    for face in faces:
        assert face.box.shape == (4,) and face.landmarks.shape == (5, 2)
        assert face.landmarks.dtype == np.float32 and 0.5 < face.score <= 1
        left, right, _, mouth, _ = face.landmarks
        assert left[0] < right[0] and mouth[1] > left[1]
    with pytest.raises(ValueError, match="cannot recognise them"):
        analyser.embed(picture, faces[0])
    images = {"image_0": torch.from_numpy(picture)[None].float() / 255}
    result = PrepareFaces.execute(analyser, images, size=64, at_least=1).args
    assert result[0].shape == (1, 64, 64, 3)
    assert "mediapipe cannot tell people apart" in result[4]


def test_auto_takes_it_where_there_is_no_pack(base, weights):
    assert LoadFaceAnalysis.execute("auto").args[0].name == "mediapipe"
    assert LoadFaceAnalysis.execute("mediapipe").args[0].name == "mediapipe"


def test_a_pack_without_insightface_is_told_of_where_mediapipe_stands_in(
    base, weights, monkeypatch, caplog
):
    pack = base / "models" / "insightface" / "models" / "buffalo_l"
    write_pack(pack, [shape()], np.ones((1, 512)))
    monkeypatch.setitem(sys.modules, "insightface", None)
    assert load_analyser("auto").name == "mediapipe"
    (told,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "by MediaPipe, which cannot recognise them" in told
    assert 'pip install "insightface>=2.1" onnxruntime' in told
    caplog.clear()
    shutil.rmtree(pack)  # nobody has asked for one
    assert load_analyser("auto").name == "mediapipe" and not caplog.records


def test_far_faces_are_found_by_the_other_detector(base, weights):
    """The one for close faces, then also the other, finds nothing."""
    file = weights / "mediapipe_face_fp32.safetensors"
    tensors = load_file(file)
    tensors["detector_short.cls_8.bias"].fill_(-9.0)
    save_file(tensors, file)
    picture = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    assert load_mediapipe().detect(picture) == []
    tensors["detector_full.cls_dw.bias"].fill_(5.0)
    tensors["detector_full.reg_dw.weight"].zero_()
    values = tensors["detector_short.reg_8.bias"][:16] * 1.5  # of 192 pixels, not of 128
    tensors["detector_full.reg_dw.bias"].copy_(values.repeat(4))
    save_file(tensors, file)
    assert load_mediapipe().detect(picture)


def test_other_files_in_its_folder_are_not_taken_for_it(base, weights):
    whole = weights / "mediapipe_face_fp32.safetensors"
    whole.rename(weights / "z.safetensors")
    save_file({"mesh.x": torch.ones(1)}, weights / "mediapipe_face_fp32.safetensors")
    (weights / "a.safetensors").write_bytes(b"damaged")
    import folder_paths

    folder_paths.filename_list_cache.clear()
    assert load_mediapipe().name == "mediapipe"
    (weights / "z.safetensors").unlink()
    folder_paths.filename_list_cache.clear()
    with pytest.raises(MissingMediaPipeError, match="Expected mediapipe_face_fp32.safetensors in"):
        load_mediapipe()
