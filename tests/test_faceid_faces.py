"""Which face of a picture FaceID adapters read, how it is cut out, and by whose recogniser."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
import torch
from comfy_api.v0_0_2 import io
from scipy import ndimage
from server import PromptServer
from torch.nn import functional as F

from multi_ipadapter.nodes.faces.prepare import PrepareFaces
from multi_ipadapter.nodes.steering.encode import EncodeReferenceImages
from multi_ipadapter.nodes.steering.face_features import read_faces
from multi_ipadapter.nodes.steering.reference_files import LoadReferences, SaveReferences
from multi_ipadapter.pictures.pixels import to_bytes

from .builders import apply, assert_says, make_adapter
from .face_blocks import BlockAnalyser, block_picture, block_pictures
from .oracle import difference
from .test_faceid import ANALYSER, FACEID, PLUS, embeddings, encode, warnings
from .test_faces_align import of_insightface


@pytest.mark.parametrize("base", ["sd15", "sdxl"])
def test_the_encoder_sees_the_face_as_insightface_cuts_it_out(request, clip_vision, base):
    """224 pixels of both families, as FaceID-Plus was trained; black beyond the picture."""
    adapter = make_adapter(request.getfixturevalue(base), PLUS)
    images = block_pictures(1, 2)
    images["reference_image_2"] = block_picture((3, 100), size=(130, 120))
    crops = read_faces(ANALYSER, images, 224).crops
    for crop, image in zip(crops, images.values(), strict=True):
        picture = to_bytes(image[0])
        theirs = of_insightface(picture, ANALYSER.detect(picture)[0].landmarks, 224)
        assert np.abs(crop.numpy() * 255 - theirs).max() <= 1.01
        assert (theirs == 0).all(2).mean() > 0.05  # the faces lie at the border
    references = encode(adapter, clip_vision, images)
    wanted = clip_vision.encode_image(crops, crop=True)["penultimate_hidden_states"]
    hidden = references.features["penultimate_hidden_states"]
    assert hidden.shape[0] == 3 and difference(hidden, wanted) < 1e-5


def test_the_face_that_prepare_faces_has_cut_out_counts_though_a_neighbour_is_larger(
    sd15, clip_vision
):
    picture = block_picture((2, 90), size=(240, 240)).roll(71, 1)
    picture[:, 100:140, 100:140] = block_picture((1, 40))[:, 4:44, 4:44]
    index = [round(face.size) for face in ANALYSER.detect(to_bytes(picture[0]))].index(40)
    prepared = PrepareFaces.execute(
        ANALYSER, {"": picture}, who="index", index=index, margin=1.0, size=240, at_least=1
    ).args[0]
    larger, _ = ANALYSER.detect(to_bytes(prepared[0]))
    assert larger.box[0] == 0, "the neighbour, cut by the border"
    adapter = make_adapter(sd15, FACEID)
    found, wanted = (
        encode(adapter, clip_vision, {"reference_image_0": x}).features["face_embeds"]
        for x in (prepared, block_picture((1, 40)))
    )
    assert F.cosine_similarity(found, wanted) > 0.99
    for changed in (picture[:, :200], picture.roll(60, 1)):  # not square; not in the middle
        references = encode(adapter, clip_vision, {"reference_image_0": changed})
        assert len(ANALYSER.detect(to_bytes(changed[0]))) == 2
        assert torch.equal(references.features["face_embeds"], embeddings({"": changed}))


class NotAtTheBorder(BlockAnalyser):
    """As real detectors: a face that fills the picture is not seen."""

    def detect(self, picture):
        height, width = picture.shape[:2]
        whole = [0, 0, width, height]
        return [f for f in super().detect(picture) if not np.array_equal(f.box, whole)]


def test_a_face_that_fills_the_picture_is_found_by_a_border(sd15, clip_vision):
    filled = block_picture((1, 80))[:, 4:84, 4:84]
    analyser = NotAtTheBorder()
    assert analyser.detect(to_bytes(filled[0])) == []
    adapter, images = make_adapter(sd15, FACEID), {"reference_image_0": filled}
    references = encode(adapter, clip_vision, images, analyser)
    assert torch.equal(references.features["face_embeds"], embeddings(images))


@pytest.mark.parametrize("how", ["each", "mean"])
def test_an_identity_of_another_recogniser_is_warned_of_when_applied(
    base, sd15, clip_vision, caplog, how
):
    adapter, wrong = make_adapter(sd15, FACEID), BlockAnalyser("glintr100")
    for analyser, named in ((ANALYSER, ()), (wrong, ("test adapter", "w600k_r50", "glintr100"))):
        references = encode(adapter, clip_vision, block_pictures(1, 2), analyser, how)
        (file,) = SaveReferences.execute(references, "anna").args
        back = LoadReferences.execute(file).args[0]
        caplog.clear()
        apply(sd15, adapter, back.first(1))
        assert_says(warnings(caplog), *named)
        assert bool(warnings(caplog)) == bool(named)


def test_identity_files_of_before_say_nothing_of_a_recogniser(base, sd15, clip_vision, caplog):
    adapter = make_adapter(sd15, FACEID)
    references = encode(adapter, clip_vision, block_pictures(1))
    (file,) = SaveReferences.execute(replace(references, recogniser=""), "anna").args
    apply(sd15, adapter, LoadReferences.execute(file).args[0])
    assert not warnings(caplog)


def test_what_prepare_faces_has_enlarged_weighs_no_more_for_it():
    """Sharp, blurred and tiny: of one size and score when they are cut out."""
    sharp = block_picture((1, 200), size=(240, 240))
    tiny = block_picture((1, 16), size=(240, 240))
    for picture in (sharp, tiny):
        picture[picture[..., 2] < 1] = 0.4  # no noise around the faces
    blurred = sharp.clone()
    soft = ndimage.gaussian_filter(sharp[0, ..., :2].numpy(), (24, 24, 0))
    blurred[0, ..., :2] = torch.from_numpy(soft)
    cut = PrepareFaces.execute(
        ANALYSER,
        {"image_0": torch.cat([sharp, blurred, tiny])},
        size=256,
        at_least=1,
        order="as they came",
        drop_duplicates=False,
    ).args[0]
    assert len(cut) == 3
    sizes = [ANALYSER.detect(to_bytes(x))[0].size for x in cut]
    assert max(sizes) < 1.1 * min(sizes) and min(sizes) > 112
    first, *others = read_faces(ANALYSER, {"image": cut}).quality.tolist()
    assert max(others) < 0.85 * first


@pytest.fixture
def shown(monkeypatch):
    """What the node shows in a running server: by core's own messages, none of them sent."""
    server = object.__new__(PromptServer)
    server.loop, server.messages = asyncio.new_event_loop(), asyncio.Queue()
    monkeypatch.setattr(PromptServer, "instance", server, raising=False)

    def text(adapter, clip_vision, images, analyser=ANALYSER):
        node = EncodeReferenceImages.PREPARE_CLASS_CLONE(
            {"hidden_inputs": {io.Hidden.unique_id: "7"}}
        )
        node.execute(adapter, clip_vision, reference_images=images, face_analysis=analyser)
        server.loop.run_until_complete(asyncio.sleep(0))
        _, message, _ = server.messages.get_nowait()
        assert message[:5] == b"\x00\x00\x00\x017" and server.messages.empty()
        return message[5:].decode()

    yield text
    server.loop.close()


def test_the_node_itself_says_what_was_left_out_and_of_a_wrong_recogniser(
    base, sd15, clip_vision, shown
):
    adapter = make_adapter(sd15, FACEID)
    images = block_pictures(1, 2)
    assert shown(adapter, clip_vision, images) == "Faces encoded: 2"
    images["reference_image_2"] = block_picture()
    text = shown(adapter, clip_vision, images, BlockAnalyser("glintr100"))
    recogniser, left_out = text.splitlines()
    assert_says(recogniser, "w600k_r50", "got glintr100")
    assert_says(left_out, "no usable face was found: reference_image_2")
