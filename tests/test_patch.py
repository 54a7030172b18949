"""The attention patch among patches of other packs, in clones, and in 16-bit models."""

from __future__ import annotations

import comfy.ldm.modules.attention as core_attention
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention

from multi_ipadapter.nodes.demo_models import DemoConfig, build_unet
from multi_ipadapter.nodes.patch import Attn2Replace

from .builders import apply, encode, make_adapter, make_images, sample
from .oracle import SD1_LAYERS, SDXL_LAYERS, difference, expected, recorded

CLOSE = 1e-5
EVERY_STEP = {"sigma_start": 1e9, "sigma_end": 0.0}


@pytest.fixture(params=["sd15", "sdxl"])
def model(request):
    """Models of both layouts."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def adapter(model):
    return make_adapter(model)


@pytest.fixture
def references(adapter, clip_vision):
    return encode(adapter, clip_vision, make_images(3))


class ForeignReplace:
    """What other packs put into a layer: text attention, then every callback inside its sigmas."""

    def __init__(self, callback, **kwargs):
        self.callbacks = [(callback, kwargs)]

    def add(self, callback, **kwargs):
        self.callbacks.append((callback, kwargs))

    def __call__(self, q, k, v, extra_options):
        out = optimized_attention(q, k, v, extra_options["n_heads"])
        sigma = extra_options["sigmas"].detach().cpu()[0].item()
        for callback, kwargs in self.callbacks:
            if kwargs["sigma_end"] <= sigma <= kwargs["sigma_start"]:
                out = out + callback(out, q, k, v, extra_options, **kwargs)
        return out


def foreign_apply(model, callback, names, **kwargs):
    """Apply as other packs do: a new object where there is none, else `.add` on what is there."""
    clone = model.clone()
    options = clone.model_options["transformer_options"].copy()
    options["patches_replace"] = options.get("patches_replace", {}).copy()
    attn2 = options["patches_replace"].get("attn2", {}).copy()
    for name in names:
        if name in attn2:
            attn2[name].add(callback, **kwargs)
        else:
            attn2[name] = ForeignReplace(callback, **kwargs)
    options["patches_replace"]["attn2"] = attn2
    clone.model_options["transformer_options"] = options
    return clone


def increment(out, q, k, v, extra_options, strength=0.3, **kwargs):
    """A foreign contribution that depends on the queries, the text and the place."""
    assert set(kwargs) <= {"sigma_start", "sigma_end"}
    return strength * (q.flip(1) + v.mean(1, keepdim=True))


def also(q, k, v, extra_options):
    return increment(None, q, k, v, extra_options)


def is_sdxl(model):
    return len(model.model.model_config.unet_config["channel_mult"]) == 3


def layer_names(model, length=None):
    """Names of the layers; without a length, as other packs spell them for this family."""
    names = SDXL_LAYERS if is_sdxl(model) else SD1_LAYERS
    length = length or (3 if is_sdxl(model) else 2)
    return list(dict.fromkeys(name[:length] for name in names))


def one_call(model, prompts, cfg=7.0):
    with recorded(model) as calls:
        sample(model, *prompts, steps=1, cfg=cfg, batch=1)
    (call,) = calls
    return call


def sees(call):
    return [i == 0 for i in call.options["cond_or_uncond"]]


def patches_of(model):
    return model.model_options["transformer_options"]["patches_replace"]["attn2"]


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


# ---- with other packs --------------------------------------------------------------------------


@pytest.mark.parametrize("length", [2, 3], ids=["(block, id)", "(block, id, index)"])
def test_after_another_pack_both_are_added(model, adapter, references, prompts, length):
    foreign = foreign_apply(model, increment, layer_names(model, length), **EVERY_STEP)
    call = one_call(apply(foreign, adapter, references, weight=0.8), prompts)
    wanted = expected(model, call, adapter, references, sees(call), 0.8, also=also)
    assert difference(call.out, wanted) < CLOSE
    without = expected(model, call, adapter, references, sees(call), 0.8)
    assert difference(without, wanted) > 100 * CLOSE


def test_before_another_pack_both_are_added(model, adapter, references, prompts):
    """Other packs name the layers of SD1.x (block, id), those of SDXL (block, id, index)."""
    ours = apply(model, adapter, references, weight=0.8)
    assert set(patches_of(ours)) == set(layer_names(model))
    foreign = foreign_apply(ours, increment, layer_names(model), **EVERY_STEP)
    call = one_call(foreign, prompts)
    wanted = expected(model, call, adapter, references, sees(call), 0.8, also=also)
    assert difference(call.out, wanted) < CLOSE


def test_between_two_packs_all_are_added(model, adapter, references, prompts):
    names = layer_names(model)
    stack = foreign_apply(model, increment, names, strength=0.1, **EVERY_STEP)
    stack = apply(stack, adapter, references, weight=0.5)
    stack = foreign_apply(stack, increment, names, strength=0.2, **EVERY_STEP)
    stack = apply(stack, adapter, references, weight=0.3)
    call = one_call(stack, prompts)
    wanted = expected(model, call, adapter, references, sees(call), 0.8, also=also)
    assert difference(call.out, wanted) < CLOSE


def test_sigmas_of_another_pack_hold_in_both_orders(sd15, clip_vision, prompts):
    """Four steps: the other pack acts in the second and third."""
    adapter = make_adapter(sd15)
    references = encode(adapter, clip_vision, make_images(2))
    with recorded(sd15) as plain:
        sample(sd15, *prompts, steps=4)
    sigmas = [float(call.options["sigmas"][0]) for call in plain]
    window = {"sigma_start": sigmas[1], "sigma_end": sigmas[2]}

    names = layer_names(sd15)
    first = apply(foreign_apply(sd15, increment, names, **window), adapter, references)
    last = foreign_apply(apply(sd15, adapter, references), increment, names, **window)
    for stack in (first, last):
        with recorded(stack) as calls:
            sample(stack, *prompts, steps=4)
        for step, call in enumerate(calls):
            foreign = also if step in (1, 2) else None
            wanted = expected(
                sd15,
                call,
                adapter,
                references,
                [i == 0 for i in call.options["cond_or_uncond"] for _ in range(2)],
                also=foreign,
            )
            assert difference(call.out, wanted) < CLOSE, f"step {step}"


def test_a_callback_without_sigmas_acts_always(sd15, clip_vision, prompts):
    adapter = make_adapter(sd15)
    references = encode(adapter, clip_vision, make_images(2))
    stack = foreign_apply(apply(sd15, adapter, references), increment, layer_names(sd15))
    call = one_call(stack, prompts)
    wanted = expected(sd15, call, adapter, references, sees(call), also=also)
    assert difference(call.out, wanted) < CLOSE


def test_what_another_pack_adds_to_a_clone_stays_there(model, adapter, references, prompts):
    """Such packs change the object they find, so a clone must have objects of its own."""
    ours = apply(model, adapter, references)
    before = one_call(ours, prompts).out
    sibling = ours.clone()
    foreign = foreign_apply(ours, increment, layer_names(model), **EVERY_STEP)
    grandchild = foreign.clone()
    steered = one_call(foreign, prompts).out

    assert torch.equal(one_call(ours, prompts).out, before)
    assert torch.equal(one_call(sibling, prompts).out, before)
    assert torch.equal(one_call(grandchild, prompts).out, steered)
    assert difference(steered, before) > 100 * CLOSE


def test_running_another_packs_node_again_adds_nothing_to_ours(sd15, clip_vision, prompts):
    """ComfyUI keeps our MODEL and runs the node after it again when its settings change."""
    adapter = make_adapter(sd15)
    ours = apply(sd15, adapter, encode(adapter, clip_vision, make_images(2)))
    names = layer_names(sd15)
    runs = [
        one_call(foreign_apply(ours, increment, names, **EVERY_STEP), prompts).out for _ in range(3)
    ]
    assert torch.equal(runs[1], runs[0]) and torch.equal(runs[2], runs[0])
    assert all(len(patch.parts) == 1 for patch in patches_of(ours).values())


def test_a_plain_function_stays_in_the_chain(model, adapter, references, prompts):
    """What core's `set_model_attn2_replace` is given need have no methods at all."""

    def replace(q, k, v, extra_options):
        text = optimized_attention(q, k, v, extra_options["n_heads"])
        return text + also(q, k, v, extra_options)

    earlier = model.clone()
    for name in layer_names(model, 3):
        earlier.set_model_attn2_replace(replace, *name)
    call = one_call(apply(earlier, adapter, references), prompts)
    wanted = expected(model, call, adapter, references, sees(call), also=also)
    assert difference(call.out, wanted) < CLOSE


class Managed:
    """A patch that ComfyUI moves, loads models for and cleans up."""

    def __init__(self, models, moves, cleanups):
        self._models, self.moves, self.cleanups = models, moves, cleanups

    def __call__(self, q, k, v, extra_options):
        return optimized_attention(q, k, v, extra_options["n_heads"])

    def to(self, target):
        self.moves.append(target)
        return Managed(self._models, self.moves, self.cleanups)

    def models(self):
        return self._models

    def cleanup(self):
        self.cleanups.append(self)


def test_what_stood_there_is_still_moved_loaded_and_cleaned_up(sd15, clip_vision, prompts):
    side_model = build_unet(DemoConfig(), seed=4)
    moves, cleanups = [], []
    earlier = sd15.clone()
    first = Managed([side_model], moves, cleanups)
    earlier.set_model_attn2_replace(first, "middle", 0)
    adapter = make_adapter(sd15)
    ours = apply(earlier, adapter, encode(adapter, clip_vision, make_images(1)))

    assert ours.model_patches_models() == [side_model]
    one_call(ours, prompts)
    assert torch.device("cpu") in moves and torch.float32 in moves
    assert cleanups and first not in cleanups, "`.to` gave another object, which is the one in use"


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


def test_two_adapters_commute(model, references, clip_vision, prompts):
    a, b = make_adapter(model, seed=5), make_adapter(model, seed=6)
    others = encode(b, clip_vision, make_images(2, seed=50), "1, 2")
    ab = apply(apply(model, a, references, weight=0.7), b, others, weight=-0.4, start_percent=0.1)
    ba = apply(apply(model, b, others, weight=-0.4, start_percent=0.1), a, references, weight=0.7)
    results = [sample(m, *prompts, steps=3) for m in (ab, ba)]
    size = float(results[0].abs().max())
    assert difference(*results) <= CLOSE * size
    alone = sample(apply(model, a, references, weight=0.7), *prompts, steps=3)
    assert difference(results[0], alone) > 1e-3 * size


def test_attention_patches_of_other_kinds_still_act(model, adapter, references, prompts):
    def attn1(n, context, value, extra_options):
        return n, context, 0.9 * value

    def attn2(n, context, value, extra_options):
        return 1.1 * n, context.flip(1), 0.8 * value.flip(1)

    def output(n, extra_options):
        return 0.95 * n

    other = model.clone()
    other.set_model_attn1_patch(attn1)
    other.set_model_attn2_patch(attn2)
    other.set_model_attn2_output_patch(output)
    call = one_call(apply(other, adapter, references), prompts)
    assert set(call.options["patches"]) == {"attn1_patch", "attn2_patch", "attn2_output_patch"}
    wanted = expected(model, call, adapter, references, sees(call))
    assert difference(call.out, wanted) < CLOSE
    bare = expected(model, call._replace(options={}), adapter, references, sees(call))
    assert difference(call.out, bare) > 100 * CLOSE


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
