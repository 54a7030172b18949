"""Which batch rows see the references: every way in which core lays its batches out.

Every UNet call of a sampling run is compared with a plain IP-Adapter whose rows are told apart by
their text, of which the code under test knows nothing.
"""

from __future__ import annotations

import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from comfy_extras.nodes_perpneg import Guider_PerpNeg, PerpNeg
from comfy_extras.nodes_sag import SelfAttentionGuidance

from multi_ipadapter.nodes.unet.routing import guider_roles
from nodes import (  # ComfyUI's own
    ConditioningAverage,
    ConditioningCombine,
    ConditioningSetArea,
    ConditioningSetMask,
    ConditioningSetTimestepRange,
)

from .builders import apply, condition, encode, make_adapter, make_images, sample
from .oracle import assert_rows, difference, expected, recorded, shown_rows, texts

CLOSE = 1e-5


@pytest.fixture
def adapter(sd15):
    return make_adapter(sd15)


@pytest.fixture
def references(adapter, clip_vision):
    return encode(adapter, clip_vision, make_images(3), "1, 2, 0.5")


@pytest.fixture
def patched(sd15, adapter, references):
    return apply(sd15, adapter, references, weight=0.9)


def chunk_orders(calls):
    return {tuple(call.options["cond_or_uncond"]) for call in calls}


@pytest.mark.parametrize("batch", [1, 3])
def test_guidance(patched, adapter, references, prompts, batch):
    positive, negative = prompts
    with recorded(patched) as calls:
        sample(patched, positive, negative, batch=batch)
    assert {len(call.x) for call in calls} == {2 * batch}
    assert_rows(patched, calls, adapter, references, texts(positive), texts(negative))


def test_without_guidance_all_rows_see_the_references(patched, adapter, references, prompts):
    positive, negative = prompts
    with recorded(patched) as calls:
        sample(patched, positive, negative, cfg=1.0)
    assert chunk_orders(calls) == {(0,)}
    assert_rows(patched, calls, adapter, references, texts(positive), texts(negative))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_both_orders_of_the_chunks(patched, sd15, adapter, references, prompts, order):
    """Called below the sampler, as packs with a guider of their own may do, without any uuids."""
    rows = [prompts[i][0][0].expand(2, -1, -1) for i in order]
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, 4, 16, 16, generator=generator)
    options = dict(patched.model_options["transformer_options"])
    options |= {"wrappers": patched.wrappers, "cond_or_uncond": list(order)}
    with recorded(patched) as calls:
        patched.model.apply_model(
            x, torch.full((4,), 3.0), c_crossattn=torch.cat(rows), transformer_options=options
        )
    assert_rows(patched, calls, adapter, references, texts(prompts[0]), texts(prompts[1]))


def test_split_batches_equal_the_joint_ones(patched, adapter, references, prompts, monkeypatch):
    """With little memory core runs the two prompts one after the other."""
    positive, negative = prompts
    joint = sample(patched, positive, negative)
    monkeypatch.setattr(patched.model, "memory_required", lambda *_, **__: 1e18)
    with recorded(patched) as calls:
        split = sample(patched, positive, negative)
    assert chunk_orders(calls) == {(0,), (1,)}
    assert_rows(patched, calls, adapter, references, texts(positive), texts(negative))
    assert difference(split, joint) <= CLOSE * float(joint.abs().max())


def test_areas(patched, clip, adapter, references, prompts):
    """Areas are cropped chunks of their own, so that a call has more chunks than prompts."""
    positive, negative = prompts
    left, right = condition(clip, "a cat"), condition(clip, "a dog")
    (left,) = ConditioningSetArea().append(left, 64, 128, 0, 0, 1.0)
    (right,) = ConditioningSetArea().append(right, 64, 96, 64, 32, 0.7)
    (together,) = ConditioningCombine().combine(positive, left)
    (together,) = ConditioningCombine().combine(together, right)
    with recorded(patched) as calls:
        sample(patched, together, negative)
    assert {tuple(call.x.shape[2:]) for call in calls} == {(16, 16), (16, 8), (12, 8)}
    assert max(len(call.options["cond_or_uncond"]) for call in calls) >= 2
    assert_rows(patched, calls, adapter, references, texts(together), texts(negative))


def test_areas_of_the_negative_prompt(patched, clip, adapter, references, prompts):
    """Core copies the entry to the positive list, uuid and all, with the positive text."""
    positive, negative = prompts
    (part,) = ConditioningSetArea().append(condition(clip, "fog"), 64, 128, 0, 0, 1.0)
    (negatives,) = ConditioningCombine().combine(negative, part)
    with recorded(patched) as calls:
        sample(patched, positive, negatives)
    assert any(call.x.shape[3] == 8 and len(call.x) == 4 for call in calls), "for both prompts"
    assert_rows(patched, calls, adapter, references, texts(positive), texts(negatives))


def test_masked_prompts(patched, clip, adapter, references, prompts):
    positive, negative = prompts
    mask = torch.zeros(1, 128, 128)
    mask[:, :, :64] = 1
    (left,) = ConditioningSetMask().append(condition(clip, "a cat"), mask, "default", 1.0)
    (right,) = ConditioningSetMask().append(condition(clip, "a dog"), 1 - mask, "default", 1.0)
    (together,) = ConditioningCombine().combine(left, right)
    with recorded(patched) as calls:
        sample(patched, together, negative)
    assert any(len(call.options["cond_or_uncond"]) == 3 for call in calls)
    assert_rows(patched, calls, adapter, references, texts(together), texts(negative))


def test_long_prompts(patched, clip, adapter, references, prompts):
    """77 tokens beside 154: core repeats the shorter text."""
    long = condition(clip, "very " * 100 + "long")
    assert long[0][0].shape[1] == 154
    _, negative = prompts
    with recorded(patched) as calls:
        sample(patched, long, negative)
    assert {call.context.shape[:2] for call in calls} == {(4, 154)}
    assert_rows(patched, calls, adapter, references, texts(long), texts(negative))


def test_prompt_batches(patched, clip, adapter, references, prompts):
    """One prompt per latent, as packs that schedule prompts make them."""
    positive, negative = prompts
    other = condition(clip, "a boat")
    batch = [[torch.cat([positive[0][0], other[0][0]]), positive[0][1]]]
    with recorded(patched) as calls:
        sample(patched, batch, negative, batch=4)
    assert_rows(patched, calls, adapter, references, texts(batch), texts(negative))


def test_timestep_ranges(patched, clip, adapter, references, prompts):
    _, negative = prompts
    (first,) = ConditioningSetTimestepRange().set_range(condition(clip, "a cat"), 0.0, 0.5)
    (second,) = ConditioningSetTimestepRange().set_range(condition(clip, "a dog"), 0.5, 1.0)
    (both,) = ConditioningCombine().combine(first, second)
    with recorded(patched) as calls:
        sample(patched, both, negative, steps=4)
    assert_rows(patched, calls, adapter, references, texts(both), texts(negative))


def test_mixed_conditionings(patched, clip, adapter, references, prompts):
    positive, negative = prompts
    (mixed,) = ConditioningAverage().addWeighted(positive, condition(clip, "a cat"), 0.3)
    with recorded(patched) as calls:
        sample(patched, mixed, negative)
    assert_rows(patched, calls, adapter, references, texts(mixed), texts(negative))


def test_one_conditioning_as_positive_and_negative(patched, adapter, references, prompts):
    """The texts are equal, so only the place tells the rows apart."""
    positive, _ = prompts
    with recorded(patched) as calls:
        sample(patched, positive, positive)
    for call in calls:
        sees = [i == 0 for i in call.options["cond_or_uncond"] for _ in range(2)]
        assert sorted(sees) == [False, False, True, True]
        assert difference(call.out, expected(patched, call, adapter, references, sees, 0.9)) < CLOSE


# ---- other guiders -----------------------------------------------------------------------------


def sample_by(guider, steps=2):
    """Run a guider with core's Euler sampler."""
    latent = torch.zeros(2, 4, 16, 16)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
    sampling = guider.model_patcher.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps)
    sampler = comfy.samplers.sampler_object("euler")
    return guider.sample(noise, latent, sampler, sigmas, disable_pbar=True)


@pytest.mark.slow
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("split", [False, True])
def test_dual_guidance(patched, clip, adapter, references, prompts, nested, split, monkeypatch):
    """Its list is [negative, middle, positive]: place 0 does not mean positive."""
    positive, negative = prompts
    middle = condition(clip, "a boat")
    guider = Guider_DualCFG(patched)
    guider.set_conds(positive, middle, negative)
    guider.set_cfg(6.0, 3.0, nested)
    if split:
        monkeypatch.setattr(patched.model, "memory_required", lambda *_, **__: 1e18)
    with recorded(patched) as calls:
        sample_by(guider)
    assert len(calls) == (6 if split else 2)
    assert_rows(patched, calls, adapter, references, texts(positive, middle), texts(negative))


def test_dual_guidance_with_areas(patched, clip, adapter, references, prompts):
    """Every list gets a copy of the positive prompt's area, uuid and all: the place must tell."""
    positive, negative = prompts
    middle = condition(clip, "a boat")
    (part,) = ConditioningSetArea().append(condition(clip, "a cat"), 64, 128, 0, 0, 1.0)
    (together,) = ConditioningCombine().combine(positive, part)
    guider = Guider_DualCFG(patched)
    guider.set_conds(together, middle, negative)
    guider.set_cfg(6.0, 3.0)
    with recorded(patched) as calls:
        sample_by(guider)
    assert any(call.x.shape[3] == 8 and len(call.x) == 6 for call in calls), "for all prompts"
    assert_rows(patched, calls, adapter, references, texts(together, middle), texts(negative))


def test_perpendicular_negative_guidance(patched, clip, adapter, references, prompts):
    positive, negative = prompts
    empty = condition(clip, "")
    guider = Guider_PerpNeg(patched)
    guider.set_conds(positive, negative, empty)
    guider.set_cfg(6.0, 1.0)
    with recorded(patched) as calls:
        sample_by(guider)
    assert {len(call.x) for call in calls} == {6}
    assert_rows(patched, calls, adapter, references, texts(positive), texts(negative, empty))


def test_a_guider_with_the_positive_prompt_alone(patched, adapter, references, prompts):
    positive, negative = prompts

    class OnlyPositive(comfy.samplers.CFGGuider):
        """What core's 'Basic Guider' does."""

        def set_conds(self, positive):
            self.inner_set_conds({"positive": positive})

    guider = OnlyPositive(patched)
    guider.set_conds(positive)
    with recorded(patched) as calls:
        sample_by(guider)
    assert_rows(patched, calls, adapter, references, texts(positive), texts(negative))


def test_the_negative_prompt_alone_in_a_later_call(sd15, adapter, references, prompts):
    """Self-attention guidance runs the negative prompt once more, as the only one of its call."""
    positive, negative = prompts
    guided = SelfAttentionGuidance.execute(sd15, 0.5, 2.0).args[0]
    patched = apply(guided, adapter, references, weight=0.9)
    with recorded(patched) as calls:
        sample(patched, positive, negative)
    alone = [call for call in calls if call.options["cond_or_uncond"] == [0]]
    assert len(alone) == 2 and all(shown_rows(call, texts(negative)) for call in alone)
    for call in calls:
        # This node replaces a self-attention in the joint calls and looks at the chunks' places.
        sees = shown_rows(call, texts(positive))
        wanted = expected(patched, call, adapter, references, sees, 0.9)
        assert difference(call.out, wanted) < CLOSE


@pytest.mark.slow
def test_a_list_alone_with_areas_of_the_other_list(sd15, clip, adapter, references, prompts):
    """The negative list holds copies of the positive prompt's areas, and runs by itself."""
    positive, negative = prompts
    (part,) = ConditioningSetArea().append(condition(clip, "a cat"), 64, 128, 0, 0, 1.0)
    (together,) = ConditioningCombine().combine(positive, part)

    def once_more(args):
        for prompt in ("uncond", "cond"):
            comfy.samplers.calc_cond_batch(
                args["model"], [args[prompt]], args["input"], args["sigma"], args["model_options"]
            )
        return args["denoised"]

    guided = sd15.clone()
    guided.set_model_sampler_post_cfg_function(once_more)
    patched = apply(guided, adapter, references, weight=0.9)
    with recorded(patched) as calls:
        sample(patched, together, negative)
    assert len(calls) == 2 * (2 + 2 + 2), "two sizes, for both prompts and for each alone"
    assert_rows(patched, calls, adapter, references, texts(together), texts(negative))


def test_an_empty_prompt_beside_the_guiders(sd15, clip, adapter, references, prompts):
    """Core's older node for perpendicular negatives evaluates a conditioning of its own."""
    positive, negative = prompts
    empty = condition(clip, "")
    guided = PerpNeg.execute(sd15, empty, 1.0).args[0]
    patched = apply(guided, adapter, references, weight=0.9)
    with recorded(patched) as calls:
        sample(patched, positive, negative)
    assert len(calls) == 4
    assert_rows(patched, calls, adapter, references, texts(positive), texts(negative, empty))


def test_names_of_conditionings_tell_their_roles():
    conds = {"positive": [{"uuid": 1}, {"uuid": 2}], "negative": [{"uuid": 3}, {"uuid": 2}]}
    roles = guider_roles(conds)
    assert roles.sees_references(1, 0) and roles.sees_references(1, 1), "wherever it stands"
    assert not roles.sees_references(3, 0)
    copy = conds["negative"][1]["uuid"]
    assert copy != 2, "a copy of the positive entry gets a uuid of its own"
    assert roles.sees_references(2, 1) and not roles.sees_references(copy, 0)
    assert not roles.sees_references(4, 0), "not the guider's: evaluated beside it, as null"
    assert guider_roles(conds) == roles, "and so it stays at the next step"
    turned = {"negative": [{"uuid": 5}], "positive": [{"uuid": 5}]}
    assert guider_roles(turned).sees_references(turned["positive"][0]["uuid"], 1)
    assert turned["positive"][0]["uuid"] == 5, "the copy is the negative one in any order"
