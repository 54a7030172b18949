"""Pictures with faces become references of FaceID, portrait and InstantID adapters."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from multi_ipadapter.faces.quality import measure
from multi_ipadapter.models.projection import ProjectionConfig
from multi_ipadapter.nodes.encode import EncodeReferenceImages
from multi_ipadapter.nodes.reference_files import LoadReferences, SaveReferences
from multi_ipadapter.pictures.pixels import to_bytes

from .builders import LINEAR, apply, assert_says, make_adapter, make_images, refusal, sample
from .face_blocks import BlockAnalyser, block_picture, block_pictures
from .oracle import assert_rows, difference, recorded, texts

FACEID = ProjectionConfig("faceid", 4, 64, id_dim=512, hidden_dim=32)
PLUS = replace(FACEID, kind="faceid_plus", input_dim=64, depth=2, heads=1, shortcut=True)
UNNORM = ProjectionConfig(
    "resampler", 8, 64, input_dim=512, hidden_dim=64, depth=2, heads=1, face_input=True
)
EVERY_KIND = pytest.mark.parametrize("projection", [FACEID, PLUS, UNNORM], ids=["id", "plus", "un"])
ANALYSER = BlockAnalyser()


def encode(adapter, clip_vision, images, analyser=ANALYSER, how="each", weights="", **options):
    return EncodeReferenceImages.execute(
        adapter,
        clip_vision,
        reference_images=images,
        reference_weights=weights,
        face_analysis=analyser,
        face_embeddings=how,
        **options,
    ).args[0]


def embeddings(images, analyser=ANALYSER):
    """What the analyser says of the only or largest face of each picture."""
    pictures = [to_bytes(x) for stack in images.values() for x in stack]
    faces = [(picture, analyser.detect(picture)[0]) for picture in pictures]
    return torch.stack([torch.from_numpy(analyser.embed(*face)) for face in faces])


def warnings(caplog):
    """The pack's; ComfyUI may warn of its memory meanwhile."""
    return "\n".join(
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING and record.name == "MultiIPAdapter"
    )


# ---- features --------------------------------------------------------------------------------


@EVERY_KIND
def test_each_picture_is_a_reference(sd15, clip_vision, projection):
    images = block_pictures(1, 2, 3)
    images["reference_image_3"] = torch.cat([block_picture((4, 40)), block_picture((5, 80))])
    references = encode(make_adapter(sd15, projection), clip_vision, images, weights="1 2 3 4 5")
    assert references.num_references == 5
    assert torch.equal(references.features["face_embeds"], embeddings(images))
    assert references.weights.tolist() == [1, 2, 3, 4, 5]
    assert set(references.features) == set(references.null) == set(projection.inputs)


def test_the_largest_face_counts(sd15, clip_vision):
    adapter = make_adapter(sd15, FACEID)
    several = {"reference_image_0": block_picture((1, 30), (2, 50), (3, 20))}
    alone = {"reference_image_0": block_picture((2, 50))}
    assert len(ANALYSER.detect(to_bytes(several["reference_image_0"][0]))) == 3
    pair = [encode(adapter, clip_vision, x).features["face_embeds"] for x in (several, alone)]
    assert F.cosine_similarity(*pair) > 0.999
    other = {"reference_image_0": block_picture((1, 30))}
    assert F.cosine_similarity(pair[0], embeddings(other)) < 0.9


def test_the_null_face_is_zero_and_its_picture_is_zero_after_normalisation(sd15, clip_vision):
    references = encode(make_adapter(sd15, PLUS), clip_vision, block_pictures(1))
    assert references.null["face_embeds"].shape == (1, 512)
    assert not references.null["face_embeds"].any()
    zero = clip_vision.model(pixel_values=torch.zeros(1, 3, 56, 56), intermediate_output=-2)[1]
    assert torch.equal(references.null["penultimate_hidden_states"], zero.float())


@pytest.mark.parametrize("how", ["each", "mean", "quality-weighted mean"])
@EVERY_KIND
def test_lengths_matter_to_portrait_unnorm_alone(sd15, clip_vision, projection, how):
    adapter = make_adapter(sd15, projection)
    tokens = []
    for length in (20, 30):
        images = block_pictures(1, 2)
        references = encode(adapter, clip_vision, images, BlockAnalyser(length=length), how)
        features = {name: x[None] for name, x in references.features.items()}
        tokens.append(adapter.adapter.project(features))
    moved = difference(*tokens)
    assert moved > 1e-3 if projection is UNNORM else moved < 1e-5


def test_the_mean_is_that_of_unit_embeddings(sd15, clip_vision):
    images = block_pictures(1, 2, 3)
    references = encode(make_adapter(sd15, FACEID), clip_vision, images, how="mean")
    mean = F.normalize(F.normalize(embeddings(images), dim=1).mean(0), dim=0)
    found = references.features["face_embeds"]
    assert found.shape == (1, 512) and references.weights.tolist() == [1.0]
    assert difference(F.normalize(found[0], dim=0), mean) < 1e-6
    assert abs(float(found.norm()) - 20) < 1e-3, "as long as a single one"


def test_the_mean_takes_the_reference_weights(sd15, clip_vision):
    images = block_pictures(1, 2, 3)
    adapter = make_adapter(sd15, FACEID)
    references = encode(adapter, clip_vision, images, how="mean", weights="1, 2, 5")
    unit = F.normalize(embeddings(images), dim=1)
    mean = (unit * torch.tensor([[1.0], [2.0], [5.0]])).sum(0)
    found = references.features["face_embeds"][0]
    assert difference(F.normalize(found, dim=0), F.normalize(mean, dim=0)) < 1e-6


def qualities(images):
    """What Prepare Faces orders by, of the only face of each picture."""
    pictures = [to_bytes(x[0]) for x in images.values()]
    return [measure(picture, ANALYSER.detect(picture)[0]).total for picture in pictures]


def test_the_quality_is_that_of_prepare_faces(sd15, clip_vision):
    images = {
        "reference_image_0": block_picture((1, 28)),
        "reference_image_1": block_picture((2, 56), score=0.75),
        "reference_image_2": block_picture((3, 112), size=(200, 200)),
        "reference_image_3": block_picture((4, 224), size=(300, 300)),
    }
    quality = qualities(images)
    assert quality == sorted(quality) and quality[0] < 0.6 * quality[3]
    how = "quality-weighted mean"
    references = encode(make_adapter(sd15, FACEID), clip_vision, images, how=how)
    unit = F.normalize(embeddings(images), dim=1)
    mean = (unit * torch.tensor(quality)[:, None]).sum(0)
    found = references.features["face_embeds"][0]
    assert difference(F.normalize(found, dim=0), F.normalize(mean, dim=0)) < 1e-6


def test_a_mean_has_the_hidden_states_of_the_best_picture(sd15, clip_vision):
    adapter, images = make_adapter(sd15, PLUS), block_pictures(1, 2, 3)
    each = encode(adapter, clip_vision, images)
    mean = encode(adapter, clip_vision, images, how="mean", weights="1, 3, 2")
    hidden = "penultimate_hidden_states"
    assert torch.equal(mean.features[hidden], each.features[hidden][1:2])


@pytest.mark.parametrize("how", ["mean", "quality-weighted mean"])
def test_of_pictures_that_weigh_alike_the_best_gives_the_hidden_states(sd15, clip_vision, how):
    adapter = make_adapter(sd15, PLUS)
    images = {f"reference_image_{i}": block_picture((i, s)) for i, s in enumerate((30, 60, 40))}
    each = encode(adapter, clip_vision, images)
    mean = encode(adapter, clip_vision, images, how=how)
    hidden = "penultimate_hidden_states"
    assert torch.equal(mean.features[hidden], each.features[hidden][1:2])


def test_weights_and_quality_multiply(sd15, clip_vision):
    """Neither alone would give this mean, nor choose this picture."""
    adapter, how = make_adapter(sd15, PLUS), "quality-weighted mean"
    images = {f"reference_image_{i}": block_picture((i, s)) for i, s in enumerate((30, 60, 50))}
    each = encode(adapter, clip_vision, images)
    weights, quality = torch.tensor([1.2, 1.0, 1.1]), torch.tensor(qualities(images))
    assert (weights * quality).argmax() == 2 and quality.argmax() == 1
    references = encode(adapter, clip_vision, images, how=how, weights="1.2, 1, 1.1")
    unit = F.normalize(embeddings(images), dim=1)
    mean = (unit * (weights * quality)[:, None]).sum(0)
    found = references.features["face_embeds"][0]
    assert difference(F.normalize(found, dim=0), F.normalize(mean, dim=0)) < 1e-6
    hidden = "penultimate_hidden_states"
    assert torch.equal(references.features[hidden], each.features[hidden][2:])


# ---- the whole way ---------------------------------------------------------------------------


@EVERY_KIND
@pytest.mark.parametrize("how", ["each", "mean"])
def test_references_steer_the_model(sd15, clip_vision, prompts, projection, how):
    adapter = make_adapter(sd15, projection)
    images = block_pictures(1, 2)
    references = encode(adapter, clip_vision, images, how=how)
    with recorded(sd15) as calls:
        sample(apply(sd15, adapter, references, weight=0.9), *prompts, steps=1, batch=1)
    assert_rows(sd15, calls, adapter, references, texts(prompts[0]), texts(prompts[1]))


@EVERY_KIND
def test_identity_files_hold_faces(base, sd15, clip_vision, projection):
    adapter = make_adapter(sd15, projection)
    references = encode(adapter, clip_vision, block_pictures(1, 2), weights="1, 2")
    (file,) = SaveReferences.execute(references, "anna").args
    back = LoadReferences.execute(file).args[0]
    for part in ("features", "null"):
        saved, loaded = getattr(references, part), getattr(back, part)
        assert saved.keys() == loaded.keys() >= {"face_embeds"}
        assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    assert torch.equal(references.weights, back.weights)
    assert back.recogniser == references.recogniser == "w600k_r50"


def test_an_identity_serves_faceid_and_portrait_unnorm(sd15, clip_vision, prompts):
    """The file keeps the lengths, which one adapter needs and the other does not see."""
    references = encode(make_adapter(sd15, FACEID), clip_vision, block_pictures(1, 2))
    unnorm = make_adapter(sd15, UNNORM)
    own = encode(unnorm, clip_vision, block_pictures(1, 2))
    pictures = [sample(apply(sd15, unnorm, x), *prompts, steps=1) for x in (references, own)]
    assert torch.equal(*pictures)


def test_the_weight_of_faceid_plus_v2(sd15, clip_vision, prompts):
    adapter = make_adapter(sd15, PLUS)
    references = encode(adapter, clip_vision, block_pictures(1, 2))

    def draw(adapter, **options):
        return sample(apply(sd15, adapter, references, **options), *prompts, steps=1)

    default = draw(adapter)
    assert torch.equal(draw(adapter, faceid_v2_weight=1.0), default)
    assert difference(draw(adapter, faceid_v2_weight=0.2), default) > 1e-4
    assert difference(draw(adapter, faceid_v2_weight=2.0), default) > 1e-4
    for other in (FACEID, replace(PLUS, shortcut=False)):
        adapter = make_adapter(sd15, other)
        assert torch.equal(draw(adapter, faceid_v2_weight=0.2), draw(adapter))


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 1.7])
def test_the_shortcut_is_x_plus_s_times_the_perceiver_s(sd15, clip_vision, scale):
    adapter = make_adapter(sd15, PLUS).adapter
    v1 = make_adapter(sd15, replace(PLUS, shortcut=False)).adapter
    plain = make_adapter(sd15, FACEID).adapter
    plain.image_proj.load_state_dict(
        {k: v for k, v in v1.image_proj.state_dict().items() if "perceiver" not in k}
    )
    references = encode(make_adapter(sd15, PLUS), clip_vision, block_pictures(1, 2))
    features = {name: x[None] for name, x in references.features.items()}
    wanted = plain.project(features) + scale * v1.project(features)
    assert difference(adapter.project(features, scale), wanted) < 1e-6


def test_other_adapters_ignore_the_analyser(sd15, clip_vision):
    adapter, images = make_adapter(sd15, LINEAR), make_images(2)
    with_it = encode(adapter, clip_vision, images, how="mean")
    without = EncodeReferenceImages.execute(adapter, clip_vision, reference_images=images).args[0]
    assert set(with_it.features) == set(without.features) == {"image_embeds"}
    assert torch.equal(with_it.features["image_embeds"], without.features["image_embeds"])


# ---- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["each", "mean", "quality-weighted mean"])
@EVERY_KIND
def test_pictures_without_a_face_are_left_out_by_name(sd15, clip_vision, caplog, projection, how):
    adapter = make_adapter(sd15, projection)
    images = block_pictures(1, 2)
    wanted = encode(adapter, clip_vision, block_pictures(1, 2, 4), how=how, weights="1, 5, 3")
    assert not warnings(caplog)
    images["reference_image_2"] = torch.cat([block_picture(), block_picture((4, 60), seed=2)])
    images["reference_image_7"] = block_picture()
    references = encode(adapter, clip_vision, images, how=how, weights="1, 5, 2, 3, 4")
    assert torch.equal(references.weights, wanted.weights)
    for name, feature in wanted.features.items():
        assert torch.equal(references.features[name], feature)
    told = warnings(caplog)
    assert_says(
        told,
        "Left out, as no usable face was found",
        "reference_image_2, picture 1 of 2",
        "reference_image_7, picture 1 of 1",
        "Encoded are the other 3",
    )
    assert "reference_image_0" not in told and "picture 2 of 2" not in told


def test_no_picture_with_a_face_is_refused(sd15, clip_vision):
    images = {"reference_image_0": block_picture(), "reference_image_7": block_picture()}
    message = refusal(encode, make_adapter(sd15, FACEID), clip_vision, images)
    assert_says(
        message,
        "Found no face in",
        "reference_image_0, picture 1 of 1",
        "reference_image_7, picture 1 of 1",
        "Prepare Faces with crop = loose",
    )


def test_many_pictures_without_a_face(sd15, clip_vision):
    adapter = make_adapter(sd15, FACEID)
    images = {"reference_image_0": torch.cat([block_picture()] * 9)}
    assert_says(refusal(encode, adapter, clip_vision, images), "picture 5 of 9 and 4 more")


@EVERY_KIND
def test_a_face_adapter_without_an_analyser(sd15, clip_vision, projection):
    adapter = make_adapter(sd15, projection)
    message = refusal(encode, adapter, clip_vision, block_pictures(1), None)
    assert_says(message, "reads face embeddings", "Connect face_analysis")


def test_an_analyser_without_a_recogniser(sd15, clip_vision):
    adapter = make_adapter(sd15, FACEID)
    message = refusal(encode, adapter, clip_vision, block_pictures(1), BlockAnalyser(""))
    assert_says(message, "blocks", "has no recogniser", "buffalo_l")


def test_embeddings_of_another_width(sd15, clip_vision):
    adapter = make_adapter(sd15, FACEID)
    analyser = BlockAnalyser(width=256)
    message = refusal(encode, adapter, clip_vision, block_pictures(1), analyser)
    assert_says(message, "width 256", "reads 512", "Load the pack")


@pytest.mark.parametrize("projection", [FACEID, UNNORM], ids=["id", "un"])
def test_face_embeddings_need_no_image_encoder(sd15, clip_vision, projection):
    adapter, images = make_adapter(sd15, projection), block_pictures(1, 2)
    with_it, without = (encode(adapter, x, images) for x in (clip_vision, None))
    for found, wanted in ((without.features, with_it.features), (without.null, with_it.null)):
        assert set(found) == {"face_embeds"}
        assert torch.equal(found["face_embeds"], wanted["face_embeds"])


def test_plus_needs_its_image_encoder(sd15, clip_vision):
    adapter = make_adapter(sd15, replace(PLUS, input_dim=1280))
    message = refusal(encode, adapter, clip_vision, block_pictures(1))
    assert_says(message, "needs the image encoder CLIP-ViT-H-14", "1280", "got", "64")
    message = refusal(encode, adapter, None, block_pictures(1))
    assert_says(message, "needs the image encoder CLIP-ViT-H-14", "got none", "to clip_vision")


def test_another_way_to_join(sd15, clip_vision):
    adapter = make_adapter(sd15, FACEID)
    message = refusal(encode, adapter, clip_vision, block_pictures(1), how="median")
    assert_says(message, "'median'", "each, mean, quality-weighted mean")


@pytest.mark.parametrize(
    ("projection", "name", "recogniser", "wanted"),
    [
        (FACEID, "faceid.bin", "w600k_r50", None),
        (FACEID, "faceid.bin", "glintr100", "w600k_r50"),
        (PLUS, "plusv2.bin", "glintr100", "w600k_r50"),
        (UNNORM, "ip-adapter-faceid-portrait_sdxl_unnorm.bin", "w600k_r50", None),
        (UNNORM, "ip-adapter-faceid-portrait_sdxl_unnorm.bin", "glintr100", "w600k_r50"),
        (UNNORM, "instantid-ip-adapter.bin", "glintr100", None),
        (UNNORM, "Instant_ID.bin", "w600k_r50", "glintr100"),
        (UNNORM, "ip-adapter.bin", "w600k_r50", None),
        (UNNORM, "ip-adapter.bin", "glintr100", None),
        (UNNORM, "ip-adapter.bin", "other/w600k_r50", "w600k_r50 or glintr100"),
    ],
)
def test_another_recogniser_is_warned_of(
    sd15, clip_vision, caplog, projection, name, recogniser, wanted
):
    adapter = make_adapter(sd15, projection)
    adapter.name = name
    encode(adapter, clip_vision, block_pictures(1), BlockAnalyser(recogniser))
    if wanted is None:
        assert not warnings(caplog)
    else:
        assert_says(warnings(caplog), name, wanted, recogniser)


def test_an_adapter_that_names_its_recogniser(sd15, clip_vision, caplog):
    adapter = make_adapter(sd15, FACEID, recogniser="mine/net")
    encode(adapter, clip_vision, block_pictures(1), BlockAnalyser("mine/net"))
    assert not warnings(caplog)
    encode(adapter, clip_vision, block_pictures(1))
    assert_says(warnings(caplog), "mine/net", "got w600k_r50")
