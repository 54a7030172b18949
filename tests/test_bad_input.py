"""Bad input to the nodes: what was got, what was expected, what to do; and nothing has changed."""

from __future__ import annotations

import math
from dataclasses import replace

import comfy.model_patcher
import comfy.supported_models
import pytest
import torch

from multi_ipadapter.models.projection import ProjectionConfig
from multi_ipadapter.nodes.demo.tiny_models import DemoConfig, build_clip_vision
from multi_ipadapter.nodes.steering.encode import EncodeReferenceImages

from .builders import (
    LINEAR,
    PLUS,
    apply,
    assert_says,
    encode,
    make_adapter,
    make_images,
    refusal,
    sample,
    state_of,
)

NAN, INF = math.nan, math.inf


@pytest.fixture
def adapter(sd15):
    return make_adapter(sd15)


@pytest.fixture
def references(adapter, clip_vision):
    return encode(adapter, clip_vision, make_images(3))


def execute_encode(adapter, clip_vision, images, weights="", fit="crop"):
    return EncodeReferenceImages.execute(
        adapter, clip_vision, reference_images=images, reference_weights=weights, fit=fit
    )


# ---- Apply: the model is as it was, and works ------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"weight": NAN}, ("Got weight nan", "expected a number", "between 0 and 1.5")),
        ({"weight": INF}, ("Got weight inf", "expected a number")),
        (
            {"start_percent": 0.6, "end_percent": 0.4},
            ("start_percent 0.6", "end_percent 0.4", "expected 0 <= start_percent <= end_percent"),
        ),
        ({"start_percent": -0.1}, ("start_percent -0.1", "expected 0 <= start_percent")),
        ({"end_percent": 1.1}, ("end_percent 1.1", "expected 0 <=", "end_percent <= 1")),
        ({"start_percent": NAN}, ("start_percent nan", "expected 0 <= start_percent")),
        ({"aggregation": "max"}, ("Got aggregation 'max'", "expected one of concat, mean")),
        ({"layers": "pose"}, ("Got layers = 'pose'", "expected one of all, style")),
        ({"layers": "custom"}, ("Got an empty list", "expected entries such as", "layer_weights")),
        (
            {"layers": "custom", "layer_weights": "99: 1"},
            ("Got the layer '99'", "this model has 0, 1, 2"),
        ),
        (
            {"layers": "custom", "layer_weights": "6: high"},
            ("Got the layer entry '6: high'", "expected 'layer: share'", "such as '6: 1.0'"),
        ),
        (
            {"mask": torch.full((1, 8, 8), NAN)},
            ("Got a mask of shape (1, 8, 8)", "expected [batch, height, width]", "finite"),
        ),
        ({"mask": torch.ones(0, 8, 8)}, ("(0, 8, 8)", "expected", "no side of length 0")),
        ({"mask": torch.ones(1, 8, 8, 3)}, ("(1, 8, 8, 3)", "expected [batch, height, width]")),
    ],
    ids=repr,
)
def test_apply_refuses_settings(sd15, adapter, references, options, says):
    before = state_of(sd15)
    assert_says(refusal(apply, sd15, adapter, references, **options), *says)
    assert state_of(sd15) == before


def test_after_a_refusal_everything_works_as_before(sd15, adapter, references, prompts):
    patched = apply(sd15, adapter, references)
    state, steered = state_of(patched), sample(patched, *prompts, steps=1)
    bad_mask = torch.full((1, 8, 8), NAN)
    for options in ({"weight": NAN}, {"aggregation": "max"}, {"mask": bad_mask}):
        refusal(apply, patched, adapter, references, **options)
        refusal(apply, sd15, adapter, references, **options)
    assert state_of(patched) == state
    assert torch.equal(sample(patched, *prompts, steps=1), steered)
    again = apply(sd15, adapter, references)
    assert torch.equal(sample(again, *prompts, steps=1), steered)


def test_an_adapter_of_another_base_family(sd15, sdxl, clip_vision):
    for model, other in ((sd15, sdxl), (sdxl, sd15)):
        adapter = make_adapter(other)
        references = encode(adapter, clip_vision, make_images(1))
        before = state_of(model)
        count, wanted = (len(make_adapter(m).config.layer_dims) for m in (model, other))
        assert_says(
            refusal(apply, model, adapter, references),
            f"The adapter is for another UNet ({wanted} cross-attention layers",
            f"the model is another UNet ({count} cross-attention layers",
            "Load a checkpoint and an adapter of the same family",
        )
        assert state_of(model) == before


@pytest.mark.parametrize(
    ("layers", "context", "name"),
    [(16, 768, "SD1.x"), (16, 1024, "SD2.x"), (70, 2048, "SDXL")],
)
def test_the_public_families_are_named(sd15, adapter, references, layers, context, name):
    sizes = replace(
        adapter.config,
        layer_dims=(320,) * layers,
        projection=replace(LINEAR, output_dim=context),
    )
    assert sizes.base_model.startswith(f"{name} ({layers} cross-attention layers")
    adapter.adapter.config = sizes
    message = refusal(apply, sd15, adapter, references)
    assert_says(message, f"The adapter is for {name}", "the model is another UNet (16")


def test_an_adapter_of_the_same_family_with_other_widths(sd15, adapter, references):
    dims = (adapter.config.layer_dims[0] + 1, *adapter.config.layer_dims[1:])
    adapter.adapter.config = replace(adapter.config, layer_dims=dims)
    assert_says(refusal(apply, sd15, adapter, references), "widths differ", "same family")


def test_a_model_that_is_no_stable_diffusion_unet(adapter, references):
    """A diffusion transformer, of ComfyUI's own class."""
    sizes = {"input_size": 4, "in_channels": 4, "depth": 1, "num_patches": 4}
    config = comfy.supported_models.SD3(sizes)
    config.set_inference_dtype(torch.float32, None)
    cpu = torch.device("cpu")
    transformer = comfy.model_patcher.CoreModelPatcher(config.get_model({}, device=cpu), cpu, cpu)
    before = state_of(transformer)
    assert_says(
        refusal(apply, transformer, adapter, references),
        "Got a SD3 model",
        "this adapter is for",
        "16 cross-attention layers",
        "Load a checkpoint of that family",
    )
    assert state_of(transformer) == before


def test_references_of_another_encoder(sd15, clip_vision):
    """Encoded for one adapter, applied with another."""
    base, plus = make_adapter(sd15, LINEAR), make_adapter(sd15, PLUS)
    wide = make_adapter(sd15, replace(LINEAR, input_dim=1024))
    references = encode(base, clip_vision, make_images(1))
    before = state_of(sd15)
    assert_says(
        refusal(apply, sd15, plus, references),
        "reads penultimate_hidden_states of width 64",
        "these references hold none",
        "Encode the images again",
    )
    assert_says(
        refusal(apply, sd15, wide, references),
        "reads image_embeds of width 1024",
        "hold width 48",
        "Encode the images again",
    )
    assert state_of(sd15) == before


def test_more_references_than_slots(sd15, clip_vision, references):
    adapter = make_adapter(sd15, slots=2)
    before = state_of(sd15)
    assert_says(
        refusal(apply, sd15, adapter, references),
        "Got 3 reference images",
        "separate weights for 2",
        "Use at most 2 references",
    )
    assert state_of(sd15) == before


# ---- Apply beside nodes with which it cannot work --------------------------------------------


def test_rows_that_another_node_repeats(sd15, adapter, references, prompts):
    """As nodes for regional prompts do, which couple several texts inside the layer."""

    def couple(n, context, value, extra_options):
        return n.repeat(2, 1, 1), context.repeat(2, 1, 1), value.repeat(2, 1, 1)

    other = sd15.clone()
    other.set_model_attn2_patch(couple)
    other.set_model_attn2_output_patch(lambda n, extra_options: n.chunk(2)[0])
    sample(other, *prompts, steps=1, batch=1)
    assert_says(
        refusal(sample, apply(other, adapter, references), *prompts, batch=1),
        "Got 4 rows",
        "a batch of 2",
        "another node",
        "Use area or mask conditioning",
    )
    after = sample(apply(sd15, adapter, references), *prompts, steps=1)
    assert after.isfinite().all()


def test_a_mask_and_queries_that_another_node_merges(sd15, adapter, references, prompts):
    other = sd15.clone()
    other.set_model_attn2_patch(lambda n, context, value, extra: (n[:, ::2], context, value))
    other.set_model_attn2_output_patch(lambda n, extra: n.repeat_interleave(2, 1))
    mask = torch.ones(1, 8, 8)
    assert sample(apply(other, adapter, references), *prompts, steps=1).isfinite().all()
    assert_says(
        refusal(sample, apply(other, adapter, references, mask=mask), *prompts),
        "Got 128 queries",
        "16 x 16",
        "the mask cannot be placed",
        "Remove the mask or that node",
    )


# ---- EncodeReferences ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (torch.full((1, 8, 8, 3), NAN), ("NaN or infinite", "check what it is connected to")),
        (torch.full((1, 8, 8, 3), INF), ("NaN or infinite",)),
        (torch.ones(1, 8, 8, 4), ("got 4 channels", "expected 3 (RGB)", "Convert")),
        (torch.ones(1, 8, 8, 1), ("got 1 channels", "expected 3 (RGB)", "Convert")),
        (torch.ones(1, 0, 8, 3), ("(1, 0, 8, 3)", "expected [batch, height, width, 3]")),
        (torch.ones(0, 8, 8, 3), ("(0, 8, 8, 3)", "expected [batch, height, width, 3]")),
        (torch.ones(8, 8, 3), ("(8, 8, 3)", "expected [batch, height, width, 3]")),
    ],
    ids=["NaN", "infinite", "RGBA", "grey", "no height", "empty batch", "no batch"],
)
def test_images_that_cannot_be_encoded(adapter, clip_vision, image, says):
    """The message names the slot, also when it is not the first."""
    images = make_images(1) | {"reference_image_7": image}
    message = refusal(execute_encode, adapter, clip_vision, images)
    assert_says(message, "reference_image_7", *says)


@pytest.mark.parametrize("projection", [LINEAR, PLUS], ids=["base", "plus"])
def test_no_image_encoder(sd15, projection):
    message = refusal(execute_encode, make_adapter(sd15, projection), None, make_images(1))
    assert_says(message, "needs the image encoder", "got none", "Connect Load CLIP Vision")


def test_more_inputs_than_there_are(adapter, clip_vision):
    """ComfyUI passes links on under any name."""
    images = {f"reference_image_{i}": image for i, image in enumerate(make_images(1).values())}
    message = refusal(
        EncodeReferenceImages.execute,
        adapter,
        clip_vision,
        reference_images=images,
        **{"reference_images.reference_image_64": images["reference_image_0"]},
    )
    assert_says(
        message,
        "Got the unknown input reference_images.reference_image_64",
        "expected names from reference_images.reference_image_0",
        "to reference_images.reference_image_63",
        "batch",
    )


def test_no_reference_at_all(adapter, clip_vision):
    message = refusal(execute_encode, adapter, clip_vision, {})
    assert_says(message, "Got no reference images", "connect at least one")


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ("1, 2", ("Got 2 reference weights for 3", "expected one for each", "none at all")),
        ("1, 2, 3, 4", ("Got 4 reference weights for 3", "expected one for each")),
        ("1, -2, 3", ("-2.0", "expected positive numbers", "disconnect")),
        ("1, 0, 3", ("0.0", "expected positive numbers", "disconnect")),
        ("1, nan, 3", ("nan", "expected positive numbers")),
        ("1, inf, 3", ("inf", "expected positive numbers")),
        ("1, 1e-60, 3", ("1e-60", "expected positive numbers")),
        ("1, much, 3", ('"1, much, 3"', "expected numbers separated by commas", 'such as "1')),
    ],
)
def test_weights_that_cannot_be_used(adapter, clip_vision, weights, says):
    message = refusal(execute_encode, adapter, clip_vision, make_images(3), weights)
    assert_says(message, *says)


@pytest.mark.parametrize(
    ("projection", "vision", "says"),
    [
        (
            ProjectionConfig("linear", 4, 64, input_dim=1024),
            {},
            ("needs the image encoder CLIP-ViT-H-14", "1024", "got", "48", "models/clip_vision"),
        ),
        (
            ProjectionConfig("resampler", 16, 64, input_dim=1280, hidden_dim=64, heads=1),
            {"hidden_size": 1664, "num_attention_heads": 2, "intermediate_size": 8},
            ("needs the image encoder CLIP-ViT-H-14", "1280", "got CLIP-ViT-bigG-14", "1664"),
        ),
        (
            ProjectionConfig("linear", 4, 64, input_dim=1280),
            {"projection_dim": 1024},
            ("CLIP-ViT-bigG-14", "pooled", "got CLIP-ViT-H-14", "models/clip_vision"),
        ),
        (
            ProjectionConfig("faceid", 4, 64, id_dim=512, hidden_dim=64),
            {},
            ("reads face embeddings", "cannot make", "Use an adapter of the base, Plus"),
        ),
    ],
    ids=["base", "plus", "base of SDXL", "FaceID"],
)
def test_the_wrong_encoder(sd15, clip_vision, projection, vision, says):
    """Found out before anything is encoded."""
    encoder = clip_vision
    if vision:
        sizes = DemoConfig().vision | {"num_hidden_layers": 2} | vision
        encoder = build_clip_vision(DemoConfig(vision=sizes), seed=3)
    adapter = make_adapter(sd15, projection)
    calls = []
    handle = encoder.model.register_forward_hook(lambda *_: calls.append(1))
    message = refusal(execute_encode, adapter, encoder, make_images(1))
    handle.remove()
    assert_says(message, *says)
    assert not calls
