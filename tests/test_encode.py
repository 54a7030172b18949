"""Pictures of any size become the features that core's own encoder gives, in the slots' order."""

from __future__ import annotations

import random

import pytest
import torch
from comfy_api.latest import _io

from multi_ipadapter.nodes.host.wires import MAX_SLOTS
from multi_ipadapter.nodes.steering.encode import EncodeReferenceImages
from multi_ipadapter.nodes.steering.vision import BATCH, encode_null, to_square

from .builders import LINEAR, PLUS, assert_says, encode, make_adapter, make_images, refusal
from .oracle import difference

SIZES = [(56, 56), (64, 80), (200, 57), (57, 200), (40, 30), (31, 128), (500, 20)]


@pytest.fixture(params=[LINEAR, PLUS], ids=["base", "plus"])
def adapter(request, sd15):
    return make_adapter(sd15, request.param)


def feature_of(references, adapter):
    """The one that the adapter reads."""
    (name,) = adapter.config.projection.inputs
    return references.features[name], name


def one(image):
    return {"reference_image_0": image}


def picture(size, seed=0, batch=1):
    return torch.rand(batch, *size, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("fit", "crop"), [("crop", True), ("squash", False)])
def test_crop_and_squash_are_core_s(adapter, clip_vision, size, fit, crop):
    image = picture(size)
    features, name = feature_of(encode(adapter, clip_vision, one(image), fit=fit), adapter)
    wanted = clip_vision.encode_image(image, crop=crop)[name]
    assert torch.equal(features, wanted.float())


def test_crop_and_squash_differ(adapter, clip_vision):
    image = one(picture((64, 200)))
    features = [
        feature_of(encode(adapter, clip_vision, image, fit=fit), adapter)[0]
        for fit in ("crop", "squash", "pad")
    ]
    assert difference(features[0], features[1]) > 1e-2
    assert difference(features[0], features[2]) > 1e-2
    assert difference(features[1], features[2]) > 1e-2


@pytest.mark.parametrize("size", [(100, 50), (50, 100), (30, 10), (300, 7), (56, 56)])
def test_pad_centres_the_whole_picture_on_the_encoders_grey(clip_vision, size):
    mean = clip_vision.image_mean
    white = torch.ones(2, *size, 3)
    square = to_square(white, 56, "pad", mean)
    assert square.shape == (2, 56, 56, 3)
    is_picture = (square > 0.99).all(-1)
    is_border = (square - torch.tensor(mean)).abs().amax(-1) < 1e-6
    assert (is_picture | is_border).all()

    rows, columns = (is_picture[0].any(i).nonzero().flatten() for i in (1, 0))
    height, width = len(rows), len(columns)
    scale = 56 / max(size)
    assert abs(height - scale * size[0]) <= 0.5 and abs(width - scale * size[1]) <= 0.5
    assert max(height, width) == 56 and is_picture[0].sum() == height * width
    assert abs((rows[0] + rows[-1]) / 2 - 27.5) <= 0.5
    assert abs((columns[0] + columns[-1]) / 2 - 27.5) <= 0.5


def test_padding_is_nothing_to_the_encoder(clip_vision):
    """The encoder subtracts its mean after rounding to 8 bits: borders are zero within 1/255."""
    seen = []
    handle = clip_vision.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    square = to_square(torch.ones(1, 56, 14, 3), 56, "pad", clip_vision.image_mean)
    clip_vision.encode_image(square, crop=False)
    handle.remove()
    borders = torch.cat([seen[0][..., :20], seen[0][..., 36:]], dim=-1)
    assert borders.abs().max() < 1 / 255 / min(clip_vision.image_std)
    assert seen[0][..., 22:34].min() > 1


def test_pad_keeps_the_pixels_of_a_picture_that_fits(clip_vision):
    image = picture((56, 28))
    square = to_square(image, 56, "pad", clip_vision.image_mean)
    assert torch.equal(square[:, :, 14:42], image)


def test_an_unknown_fit_is_refused():
    message = refusal(to_square, torch.ones(1, 10, 20, 3), 8, "centre crop", [0.5] * 3)
    assert_says(message, "fit 'centre crop'", "crop, pad, squash")


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_mixed_sizes_and_batches_equal_one_by_one(adapter, clip_vision, fit):
    """40 pictures in three batches of the encoder, the sizes in any order."""
    pictures = [picture(SIZES[i % len(SIZES)], seed=i) for i in range(40)]
    stacks = {f"reference_image_{i}": x for i, x in enumerate(pictures[:20])}
    for i, size in enumerate(SIZES[:5]):
        stacks[f"reference_image_{20 + i}"] = picture(size, seed=100 + i, batch=4)
    alone = [x for stack in stacks.values() for x in stack.split(1)]
    assert len(alone) == 40 > 2 * BATCH

    calls = []
    handle = clip_vision.model.register_forward_hook(lambda *_: calls.append(1))
    together = encode(adapter, clip_vision, stacks, fit=fit)
    handle.remove()
    assert together.num_references == 40
    assert len(calls) == 3 + 1, "three batches and the null image"

    features, name = feature_of(together, adapter)
    for i, x in enumerate(alone):
        single, _ = feature_of(encode(adapter, clip_vision, one(x), fit=fit), adapter)
        assert difference(features[i : i + 1], single) < 1e-6 * max(1, float(single.abs().max()))


def test_encoding_leaves_the_pictures_alone(adapter, clip_vision):
    images = {**make_images(2), "reference_image_2": picture((56, 56))}
    copies = {name: image.clone() for name, image in images.items()}
    for fit in ("crop", "pad", "squash"):
        encode(adapter, clip_vision, images, fit=fit)
    assert all(torch.equal(images[name], copies[name]) for name in images)


def test_the_null_image_of_hidden_states_is_zero_after_normalisation(clip_vision, sd15):
    references = encode(make_adapter(sd15, PLUS), clip_vision, make_images(1))
    null = references.null["penultimate_hidden_states"]
    zero_pixels = torch.zeros(1, 3, 56, 56)
    wanted = clip_vision.model(pixel_values=zero_pixels, intermediate_output=-2)[1]
    assert torch.equal(null, wanted.float())
    black = clip_vision.encode_image(torch.zeros(1, 56, 56, 3))["penultimate_hidden_states"]
    assert difference(null, black) > 1e-2


def test_the_null_image_of_the_pooled_embedding_is_zero(clip_vision):
    null = encode_null(clip_vision, ("image_embeds",))["image_embeds"]
    assert null.shape == (1, 48) and not null.any()


def test_references_carry_the_pooled_embedding_for_base_adapters(clip_vision, sd15):
    references = encode(make_adapter(sd15, PLUS), clip_vision, make_images(2))
    assert set(references.features) == {"penultimate_hidden_states", "image_embeds"}
    assert set(references.null) == set(references.features)
    assert {x.dtype for x in references.features.values()} == {torch.float32}


def as_the_server_passes_it(inputs):
    """What `execute` gets for the inputs of an API prompt, by core's own functions."""
    schema = EncodeReferenceImages.INPUT_TYPES()
    _, _, data = _io.get_finalized_class_inputs(schema, inputs)
    return _io.build_nested_inputs(inputs, data)["reference_images"]


@pytest.mark.parametrize("slots", [range(12), (0, 2, 9, 10, 11, 30), range(MAX_SLOTS)])
def test_references_are_in_the_order_of_the_slot_numbers(clip_vision, sd15, slots):
    """2 before 10, and empty slots between are no matter; the order in the JSON file is none."""
    adapter = make_adapter(sd15)
    pictures = {i: picture((56, 56), seed=i) for i in slots}
    shuffled = list(slots)
    random.Random(0).shuffle(shuffled)
    passed = as_the_server_passes_it(
        {f"reference_images.reference_image_{i}": pictures[i] for i in shuffled}
    )
    features, name = feature_of(encode(adapter, clip_vision, passed), adapter)
    wanted = clip_vision.encode_image(torch.cat([pictures[i] for i in slots]), crop=True)[name]
    assert difference(features, wanted) < 1e-6 * float(wanted.abs().max())


@pytest.mark.parametrize("text", ["1,2,0.5", "1, 2, 0.5", " 1 2 .5 ", "1;2;5e-1", "1\n2\n0.5"])
def test_weights_are_read_in_the_pictures_order(clip_vision, sd15, text):
    images = {
        "reference_image_0": picture((56, 56), batch=2),
        "reference_image_1": picture((40, 30)),
    }
    references = encode(make_adapter(sd15), clip_vision, images, text)
    assert references.weights.tolist() == [1.0, 2.0, 0.5]


def test_without_weights_all_count_alike(clip_vision, sd15):
    references = encode(make_adapter(sd15), clip_vision, make_images(3), "  ")
    assert references.weights.tolist() == [1.0, 1.0, 1.0]
