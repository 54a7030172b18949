"""Beside other nodes: what they change in the model, the batch or the data must not mislead us."""

from __future__ import annotations

import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingContinuousV

from multi_ipadapter.nodes.steering.key_values import LoadedAdapter
from multi_ipadapter.nodes.unet.routing import RowRouter
from nodes import ConditioningCombine, ConditioningSetArea  # ComfyUI's own

from .builders import apply, condition, encode, make_adapter, make_images, sample
from .oracle import difference, expected, recorded


@pytest.fixture
def adapter(sd15):
    return make_adapter(sd15)


@pytest.fixture
def references(adapter, clip_vision):
    return encode(adapter, clip_vision, make_images(3))


@pytest.fixture(scope="module")
def prompts(clip):
    return condition(clip, "a photo of a person"), condition(clip, "blurry")


def test_a_negative_prompt_evaluated_alone_stays_negative(sd15, clip, adapter, references, prompts):
    """Also the copy of the positive prompt's area that core adds to the negative list."""
    positive, negative = prompts
    (part,) = ConditioningSetArea().append(condition(clip, "a cat"), 64, 64, 0, 0, 1.0)
    (together,) = ConditioningCombine().combine(positive, part)
    model = sd15.clone()
    alone = []

    def evaluate_again(arguments):
        with recorded(model) as calls:
            comfy.samplers.calc_cond_batch(
                arguments["model"],
                [arguments["uncond"]],
                arguments["input"],
                arguments["sigma"],
                arguments["model_options"],
            )
        alone.extend(calls)
        return arguments["denoised"]

    model.set_model_sampler_post_cfg_function(evaluate_again)
    patched = apply(model, adapter, references)
    sample(patched, together, negative, size=(16, 24))
    assert {tuple(call.x.shape[2:]) for call in alone} == {(16, 24), (8, 8)}
    for call in alone:
        wanted = expected(patched, call, adapter, references, [False] * len(call.x), 1.0)
        assert difference(call.out, wanted) < 1e-5


def test_rows_repeated_by_another_node_are_refused(sd15, adapter, references, prompts):
    """Attention coupling repeats queries; without a word the rows would be mixed up."""
    patched = apply(sd15, adapter, references)

    def couple(n, context, value, extra_options):
        return n.repeat(2, 1, 1), context.repeat(2, 1, 1), value.repeat(2, 1, 1)

    patched.set_model_attn2_patch(couple)
    patched.set_model_attn2_output_patch(lambda n, extra_options: n[: len(n) // 2])
    with pytest.raises(ValueError, match="Got 8 rows .* batch of 4.*remove Apply"):
        sample(patched, *prompts)


def test_a_mask_is_refused_where_queries_are_merged(sd15, adapter, references, prompts):
    patched = apply(sd15, adapter, references, mask=torch.ones(1, 16, 16))
    patched.set_model_attn2_patch(lambda n, context, value, extra: (n[:, ::2], context, value))
    patched.set_model_attn2_output_patch(lambda n, extra: n.repeat_interleave(2, dim=1))
    with pytest.raises(ValueError, match="merges or cuts.*Remove the mask"):
        sample(patched, *prompts)


@pytest.mark.slow
def test_the_window_follows_the_sampling_of_the_run(sd15, adapter, references, prompts):
    """A node after Apply replaces the schedule; the percents mean that one."""

    def with_other_schedule(model):
        (patched,) = ModelSamplingContinuousV().patch(model, "v_prediction", 500.0, 0.03)
        return patched

    before = apply(with_other_schedule(sd15), adapter, references, start_percent=0.5)
    after = with_other_schedule(apply(sd15, adapter, references, start_percent=0.5))
    always = with_other_schedule(apply(sd15, adapter, references))
    half = sample(after, *prompts, steps=6)
    assert torch.equal(half, sample(before, *prompts, steps=6))
    assert difference(half, sample(always, *prompts, steps=6)) > 1e-3


@pytest.mark.parametrize(("sigmas", "active"), [((9.0, 1.0), True), ((1.0, 1.0), False)])
def test_the_noisiest_row_decides_about_the_window(sd15, sigmas, active):
    """Samplers may give every row a sigma of its own."""
    sampling = sd15.model.model_sampling
    router = RowRouter(1.0, 0.0, 0.5)
    start, end = (float(sampling.percent_to_sigma(p)) for p in (0.0, 0.5))
    assert 1.0 < end < 9.0 < start
    rows = router.rows(sd15.model, torch.zeros(2, 4, 8, 8), torch.tensor(sigmas), {})
    assert rows.active == active and float(rows.gate) == float(active)


def test_callbacks_of_other_packs_may_compute_in_float32(sd15, adapter, references, prompts):
    patched = apply(sd15, adapter, references)
    replace = patched.model_options["transformer_options"]["patches_replace"]["attn2"]
    seen = []

    def callback(out, q, k, v, extra_options):
        seen.append(out.dtype)
        return torch.zeros_like(out, dtype=torch.float32)

    replace["middle", 0].add(callback)
    q, k = torch.zeros(2, 16, 128, dtype=torch.bfloat16), torch.zeros(2, 7, 128).bfloat16()
    out = replace["middle", 0](q, k, k, {"n_heads": 4, "attn_precision": None})
    assert seen == [torch.bfloat16] and out.dtype == torch.bfloat16


def test_pictures_in_half_precision_are_encoded(adapter, clip_vision):
    """ComfyUI's --fp16-intermediates."""
    images = make_images(2)
    half = {name: image.half() for name, image in images.items()}
    full = encode(adapter, clip_vision, images).features["image_embeds"]
    difference_ = encode(adapter, clip_vision, half).features["image_embeds"] - full
    assert difference_.abs().max() < 0.05 * full.abs().max()


def test_every_aggregation_of_a_comparison_is_computed_once(sd15, adapter, references):
    """Two branches with other aggregations must not throw each other's G and U away."""
    runs = []
    handle = adapter.adapter.image_proj.register_forward_hook(lambda *_: runs.append(1))
    try:
        for weight in (0.2, 0.4, 0.6):
            for aggregation in ("concat", "mean"):
                apply(sd15, adapter, references, weight=weight, aggregation=aggregation)
    finally:
        handle.remove()
    assert len(runs) == 4, "references and null image, for each of the two"


def test_precisions_do_not_share_keys_and_values(adapter: LoadedAdapter, references):
    single = adapter.key_values(references, "mean", torch.float32)[0]
    half = adapter.key_values(references, "mean", torch.float16)[0]
    assert single.keys.dtype == torch.float32 and half.keys.dtype == torch.float16


def test_moving_a_model_leaves_the_remembered_tensors(sd15, adapter, references):
    """Unloading must not make copies beside those that the next Apply will use."""
    patched = apply(sd15, adapter, references)
    replace = patched.model_options["transformer_options"]["patches_replace"]["attn2"]
    part = replace["middle", 0].parts[0]
    home = adapter.key_values(references, "concat", torch.float32)[-1]
    patched.model_patches_to(torch.device("meta"))
    assert part.key_values.keys.is_meta
    patched.model_patches_to(torch.device("cpu"))
    assert part.key_values.keys is home.keys
