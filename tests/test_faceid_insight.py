"""From pictures to what FaceID adapters are given, through the real insightface code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from multi_ipadapter.faces.quality import measure
from multi_ipadapter.nodes.faces.analysis import load_analyser

from .builders import assert_says, make_adapter
from .face_graphs import paint, shape, write_pack
from .oracle import difference
from .test_faceid import EVERY_KIND, FACEID, encode, warnings
from .test_faces_align import of_insightface


def test_real_insightface_on_known_graphs(base, sd15, clip_vision, caplog):
    """Detector and recogniser as in buffalo_l, their outputs written into the pictures."""
    known = 20 * torch.randn(3, 512, generator=torch.Generator().manual_seed(2))
    folder = base / "models" / "insightface" / "models" / "buffalo_l"
    write_pack(folder, [shape(), shape(scale=2)], known.numpy())
    analyser = load_analyser("buffalo_l")
    images = {}
    for i, faces in enumerate([[(0, 1)], [(1, 2)], [(0, 0), (1, 2)]]):
        picture = np.zeros((640, 640, 3), np.uint8)
        for place, (number, code) in enumerate(faces):
            paint(picture, 96 + 192 * place, 192, [shape(), shape(2)][number], number, code)
        images[f"reference_image_{i}"] = torch.from_numpy(picture)[None].float() / 255
    references = encode(make_adapter(sd15, FACEID), clip_vision, images, analyser)
    assert difference(references.features["face_embeds"], known[[1, 2, 2]]) < 1e-4
    images["reference_image_3"] = torch.zeros(1, 640, 640, 3)
    references = encode(make_adapter(sd15, FACEID), clip_vision, images, analyser)
    assert difference(references.features["face_embeds"], known[[1, 2, 2]]) < 1e-4
    assert_says(warnings(caplog), "no usable face was found: reference_image_3, picture 1 of 1")


@pytest.mark.parametrize("how", ["each", "mean", "quality-weighted mean"])
@EVERY_KIND
def test_every_kind_of_adapter_on_real_insightface(base, sd15, clip_vision, projection, how):
    """From the files of a pack to what the adapter is given, of whatever length."""
    known = torch.randn(2, 512, generator=torch.Generator().manual_seed(3))
    known *= torch.tensor([[15 / 512**0.5], [25 / 512**0.5]])
    folder = base / "models" / "insightface" / "models" / "buffalo_l"
    write_pack(folder, [shape(), shape(scale=2)], known.numpy())
    analyser = load_analyser("buffalo_l")
    images, pictures = {}, []
    for code in range(2):
        picture = np.random.default_rng(code).integers(0, 200, (640, 640, 3), np.uint8)
        picture[..., 0] //= 4
        paint(picture, 192, 192, [shape(), shape(2)][code], code, code)
        pictures.append(picture)
        images[f"reference_image_{code}"] = torch.from_numpy(picture)[None].float() / 255
    adapter = make_adapter(sd15, projection)
    references = encode(adapter, clip_vision, images, analyser, how, weights="1, 2")
    assert references.recogniser == "w600k_r50" and set(references.features) == set(
        projection.inputs
    )
    share = torch.tensor([1.0, 2.0])
    if how == "quality-weighted mean":
        found = [analyser.detect(picture)[0] for picture in pictures]
        share = share * torch.tensor(
            [measure(*pair).total for pair in zip(pictures, found, strict=True)]
        )
    share = (share / share.sum())[:, None]
    mean = F.normalize((share * F.normalize(known, dim=1)).sum(0), dim=0)
    mean = mean * (share * known.norm(dim=1, keepdim=True)).sum()
    wanted = known if how == "each" else mean[None]
    assert difference(references.features["face_embeds"], wanted) < 1e-4
    if "penultimate_hidden_states" in projection.inputs:
        faces = [analyser.detect(picture)[0].landmarks for picture in pictures]
        crops = [of_insightface(*pair, 224) for pair in zip(pictures, faces, strict=True)]
        crops = torch.from_numpy(np.stack(crops)).float() / 255
        hidden = clip_vision.encode_image(crops, crop=True)["penultimate_hidden_states"]
        hidden = hidden if how == "each" else hidden[1:]  # the one that weighs most
        assert difference(references.features["penultimate_hidden_states"], hidden) < 2e-2
    features = {name: x[None] for name, x in references.features.items()}
    tokens = adapter.adapter.project(features)
    assert tokens.isfinite().all() and tokens.shape[1] == references.num_references


def test_a_face_whose_landmarks_lie_on_one_spot_is_none(base, sd15, clip_vision, caplog):
    spot = shape()
    spot[4:] = 56
    folder = base / "models" / "insightface" / "models" / "buffalo_l"
    write_pack(folder, [shape(), spot], np.ones((2, 512)))
    images = {}
    for code in range(2):
        picture = np.zeros((640, 640, 3), np.uint8)
        paint(picture, 192, 192, [shape(), spot][code], code, code)
        images[f"reference_image_{code}"] = torch.from_numpy(picture)[None].float() / 255
    analyser = load_analyser("buffalo_l")
    references = encode(make_adapter(sd15, FACEID), clip_vision, images, analyser)
    assert references.num_references == 1
    assert_says(warnings(caplog), "no usable face was found: reference_image_1, picture 1 of 1.")
