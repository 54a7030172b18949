"""What the attention patch computes, in ComfyUI's attention functions and in 16-bit models."""

from __future__ import annotations

import comfy.ldm.modules.attention as core_attention
import pytest
import torch

from multi_ipadapter.nodes.demo.tiny_models import DemoConfig, build_unet
from multi_ipadapter.nodes.steering.patch import Attn2Replace

from .builders import apply, encode, make_adapter, make_images, patches_of
from .oracle import difference, expected, one_call, sees

CLOSE = 1e-5


@pytest.fixture(params=["sd15", "sdxl"])
def model(request):
    """Models of both layouts."""
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("aggregation", ["concat", "mean", "learned"])
def test_the_layers_compute_the_formula(model, clip_vision, prompts, aggregation, slots):
    adapter = make_adapter(model, slots=slots, aggregator_heads=1)
    for score in adapter.adapter.aggregator.parameters():
        score.copy_(torch.linspace(-2, 2, score.numel()).view_as(score))
    references = encode(adapter, clip_vision, make_images(3), "1, 2, 0.5")
    call = one_call(apply(model, adapter, references, weight=0.8, aggregation=aggregation), prompts)
    wanted = expected(model, call, adapter, references, sees(call), 0.8, aggregation)
    assert difference(call.out, wanted) < CLOSE
    flipped = [not x for x in sees(call)]
    other = expected(model, call, adapter, references, flipped, 0.8, aggregation)
    assert (other - wanted).abs().amax((1, 2, 3)).min() > 100 * CLOSE


@pytest.mark.parametrize("kind", ["basic", "split", "sub_quad", "pytorch"])
def test_every_attention_function_of_core_serves(sd15, clip_vision, prompts, kind, monkeypatch):
    """A command line option chooses; unequal weights hand it a bias."""
    for name in ("optimized_attention", "optimized_attention_masked"):
        function = getattr(core_attention, f"attention_{kind}")
        monkeypatch.setattr(core_attention, name, function)
    adapter = make_adapter(sd15)
    references = encode(adapter, clip_vision, make_images(3), "1, 2, 0.5")
    call = one_call(apply(sd15, adapter, references), prompts)
    wanted = expected(sd15, call, adapter, references, sees(call))
    assert difference(call.out, wanted) < CLOSE


def test_a_data_type_does_not_reach_our_tensors(sd15, clip_vision):
    """ComfyUI passes a model's storage type on, in which nothing can be computed (fp8, say)."""
    adapter = make_adapter(sd15)
    ours = apply(sd15, adapter, encode(adapter, clip_vision, make_images(1)))
    ours.model_patches_to(torch.float8_e4m3fn)
    ours.model_patches_to(torch.device("meta"))
    for patch in patches_of(ours).values():
        (part,) = patch.parts
        assert part.key_values.keys.dtype == torch.float32
        assert part.key_values.keys.device.type == "meta"
    patches_of(ours).clear()  # ComfyUI moves them once more when the model goes, but meta is final


@pytest.mark.parametrize("weights", ["", "1, 2, 3"])
def test_an_attention_override_sees_text_and_images(sd15, clip_vision, prompts, weights):
    adapter = make_adapter(sd15)
    references = encode(adapter, clip_vision, make_images(3), weights)
    seen = []

    def override(function, q, k, v, heads, *args, **kwargs):
        seen.append((k.shape[1], heads, kwargs.get("mask") is not None))
        return 0.5 * function(q, k, v, heads, *args, **kwargs)

    other = sd15.clone()
    other.model_options["transformer_options"]["optimized_attention_override"] = override
    call = one_call(apply(other, adapter, references), prompts)
    text, images = 77, 3 * 4
    assert seen.count((text, 4, False)) == 16
    assert seen.count((images, 4, weights != "")) == 16
    assert len(seen) == 3 * 16, "self-attention as well, and nothing else"
    assert difference(call.out, one_call(apply(sd15, adapter, references), prompts).out) > CLOSE


def test_the_models_attention_precision_is_kept(clip_vision, prompts):
    layout = DemoConfig().unet | {"attn_precision": torch.float32}
    model = build_unet(DemoConfig(unet=layout), seed=0)
    adapter = make_adapter(model)
    asked = []

    def override(function, *args, **kwargs):
        asked.append(kwargs["attn_precision"])
        return function(*args, **kwargs)

    model.model_options["transformer_options"]["optimized_attention_override"] = override
    one_call(apply(model, adapter, encode(adapter, clip_vision, make_images(2))), prompts)
    assert asked == [torch.float32] * 48


def test_a_layer_without_share_is_left_alone(sd15, clip_vision):
    adapter = make_adapter(sd15)
    references = encode(adapter, clip_vision, make_images(1))
    ours = apply(sd15, adapter, references, layers="custom", layer_weights="6: 1, 0: 0")
    assert set(patches_of(ours)) == {("middle", 0)}


# ---- data types --------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregation", ["concat", "mean", "learned"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 0.06), (torch.float16, 0.01)], ids=["bf16", "fp16"]
)
def test_16_bit_models_give_nearly_the_same(
    sd15, clip_vision, prompts, dtype, tolerance, aggregation
):
    """One UNet call, compared by the root of the mean square."""
    half = build_unet(DemoConfig(), seed=0, dtype=dtype)
    adapter = make_adapter(sd15, aggregator_heads=1)
    references = encode(adapter, clip_vision, make_images(3), "1, 2, 0.5")
    mask = torch.linspace(0, 1, 256).view(1, 16, 16)
    options = {"aggregation": aggregation, "mask": mask}
    patched = apply(half, adapter, references, **options)
    for patch in patches_of(patched).values():
        tensors = [x for x in patch.parts[0].key_values[:4] if x is not None]
        assert {x.dtype for x in tensors} == {dtype}
    call = one_call(patched, prompts)
    assert call.x.dtype == dtype and call.out.isfinite().all()
    full = one_call(apply(sd15, adapter, references, **options), prompts).out
    assert (call.out.float() - full).norm() < tolerance * full.norm()
    assert (one_call(sd15, prompts).out - full).norm() > 2 * tolerance * full.norm()


def test_the_object_in_the_layers_is_ours(sd15, clip_vision):
    adapter = make_adapter(sd15)
    ours = apply(sd15, adapter, encode(adapter, clip_vision, make_images(1)))
    assert {type(patch) for patch in patches_of(ours).values()} == {Attn2Replace}
