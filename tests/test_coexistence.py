"""The attention patch among patches of other packs, before and after them, and in clones."""

from __future__ import annotations

import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention

from multi_ipadapter.nodes.demo.tiny_models import DemoConfig, build_unet

from .builders import apply, encode, make_adapter, make_images, patches_of, sample
from .oracle import SD1_LAYERS, SDXL_LAYERS, difference, expected, one_call, recorded, sees

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


@pytest.mark.slow
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


def test_a_callback_that_computes_in_float32_fits_a_16_bit_model(clip_vision, prompts):
    half = build_unet(DemoConfig(), seed=0, dtype=torch.bfloat16)
    adapter = make_adapter(half)
    ours = apply(half, adapter, encode(adapter, clip_vision, make_images(1)))

    def in_float32(out, q, k, v, extra_options):
        return 0.3 * q.float()

    assert (
        one_call(foreign_apply(ours, in_float32, layer_names(half)), prompts).out.isfinite().all()
    )


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


@pytest.mark.slow
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
