"""The invariants of sampling with an adapter, on latents that core's sampler made."""

from __future__ import annotations

import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM

from multi_ipadapter.models.aggregation import AGGREGATIONS
from multi_ipadapter.models.references import load_references, save_references

from .builders import PLUS, apply, encode, make_adapter, make_images, sample, state_of
from .oracle import difference, recorded, run_unet

CLOSE = 1e-5


on_sd1 = pytest.mark.parametrize("model", ["sd15"], indirect=True)  # the layout plays no part


@pytest.fixture(params=["sd15", "sdxl"])
def model(request):
    """Models of both layouts."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def adapter(model):
    """With a trained score, so that `learned` differs from `mean`."""
    loaded = make_adapter(model, aggregator_heads=1)
    generator = torch.Generator().manual_seed(9)
    for score in loaded.adapter.aggregator.parameters():
        score.copy_(3 * torch.randn(score.shape, generator=generator))
    return loaded


@pytest.fixture
def references(adapter, clip_vision):
    return encode(adapter, clip_vision, make_images(3))


def run(model, prompts, **options):
    return sample(model, *prompts, **({"steps": 1, "batch": 1} | options))


def assert_close(a, b):
    """To 1e-5 of the latents' size."""
    assert difference(a, b) <= CLOSE * float(b.abs().max())


def assert_differ(a, b):
    """By far more than rounding."""
    assert difference(a, b) > 1e-3 * float(b.abs().max())


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_weight_0_changes_no_bit(model, adapter, references, prompts, aggregation):
    plain = run(model, prompts, steps=2, batch=2)
    patched = apply(model, adapter, references, weight=0.0, aggregation=aggregation)
    assert torch.equal(run(patched, prompts, steps=2, batch=2), plain)


def test_negative_zero_changes_no_bit(sd15, clip_vision, prompts):
    adapter = make_adapter(sd15)
    references = encode(adapter, clip_vision, make_images(1))
    patched = apply(sd15, adapter, references, weight=-0.0)
    assert torch.equal(run(patched, prompts), run(sd15, prompts))


@pytest.mark.parametrize("window", [(0.0, 0.0), (0.4, 0.41), (1.0, 1.0)])
def test_a_window_without_a_step_changes_no_bit(model, adapter, references, prompts, window):
    """The two steps lie just after 0 % and at 50 %, 1 % is 10 of the 1000 timesteps."""
    start, end = window
    patched = apply(model, adapter, references, start_percent=start, end_percent=end)
    assert torch.equal(run(patched, prompts, steps=2), run(model, prompts, steps=2))


def latents_by_step(model, prompts, steps):
    """What the sampler starts every step from, and its last result."""
    trail = []
    last = sample(
        model,
        *prompts,
        steps=steps,
        callback=lambda step, x0, x, total: trail.append(x.clone()),
    )
    return [*trail, last]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [
        (0.0, 1.0, 0, 5),
        (0.3, 1.0, 2, 5),
        (0.0, 0.5, 0, 2),
        (0.3, 0.7, 2, 3),
    ],
)
def test_steps_outside_the_window_equal_the_unpatched_model(
    sd15, clip_vision, prompts, start, end, first, last
):
    """Six steps: those from `first` to `last` see the references, and no others."""
    adapter = make_adapter(sd15)
    references = encode(adapter, clip_vision, make_images(2))
    patched = apply(sd15, adapter, references, start_percent=start, end_percent=end)
    with recorded(patched) as calls:
        steered = latents_by_step(patched, prompts, steps=6)
    plain = latents_by_step(sd15, prompts, steps=6)

    for step in range(7):
        same = torch.equal(steered[step], plain[step])
        assert same == (step <= first), f"latents that step {step} starts from"
    assert len(calls) == 6
    for step, call in enumerate(calls):
        unpatched = run_unet(sd15, call)
        assert torch.equal(call.out, unpatched) != (first <= step <= last), f"step {step}"


@pytest.mark.parametrize("start", [0.0, 0.45])
def test_the_window_follows_a_noise_schedule_that_is_replaced_after_applying(
    sd15, clip_vision, prompts, start
):
    adapter = make_adapter(sd15)
    references = encode(adapter, clip_vision, make_images(2))
    window = {"start_percent": start, "end_percent": start + 0.45}
    patched = apply(sd15, adapter, references, **window)
    (patched,) = ModelSamplingContinuousEDM().patch(patched, "eps", 30.0, 0.01)
    with recorded(patched) as calls:
        run(patched, prompts, steps=8)

    sampling = patched.get_model_object("model_sampling")
    high, low = (float(sampling.percent_to_sigma(percent)) for percent in window.values())
    for call in calls:
        inside = low <= float(call.options["sigmas"][0]) <= high
        assert torch.equal(call.out, run_unet(sd15, call)) != inside
    assert len(calls) == 8


def test_one_reference_is_a_plain_ip_adapter_by_every_aggregation(
    model, adapter, clip_vision, prompts
):
    references = encode(adapter, clip_vision, make_images(1))
    results = [
        run(apply(model, adapter, references, aggregation=name), prompts) for name in AGGREGATIONS
    ]
    assert_close(results[1], results[0])
    assert_close(results[2], results[0])


@on_sd1
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("weights", ["", "1, 3, 0.5"])
def test_the_order_of_the_references_is_free(
    model, adapter, clip_vision, prompts, aggregation, weights
):
    images = list(make_images(3).values())
    values = weights.split(", ") if weights else []

    def steered(order):
        slots = {f"reference_image_{i}": images[j] for i, j in enumerate(order)}
        written = ", ".join(values[j] for j in order) if values else ""
        references = encode(adapter, clip_vision, slots, written)
        return run(apply(model, adapter, references, aggregation=aggregation), prompts)

    assert_close(steered((2, 0, 1)), steered((0, 1, 2)))


@on_sd1
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_showing_all_references_twice_changes_nothing(
    model, adapter, clip_vision, prompts, aggregation
):
    """A softmax over copies gives the same too, so this holds for `concat` as well."""
    images = make_images(2)
    twice = images | {f"reference_image_{i + 2}": image for i, image in enumerate(images.values())}
    once, doubled = (
        run(
            apply(model, adapter, encode(adapter, clip_vision, x), aggregation=aggregation), prompts
        )
        for x in (images, twice)
    )
    assert_close(doubled, once)


@on_sd1
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_only_the_ratio_of_the_reference_weights_counts(
    model, adapter, clip_vision, prompts, aggregation
):
    def steered(weights):
        references = encode(adapter, clip_vision, make_images(3), weights)
        return run(apply(model, adapter, references, aggregation=aggregation), prompts)

    plain = steered("")
    assert torch.equal(steered("1, 1, 1"), plain)
    assert torch.equal(steered("2, 2, 2"), plain)
    uneven = steered("1, 4, 0.25")
    assert_differ(uneven, plain)
    assert_close(steered("4, 16, 1"), uneven)


@on_sd1
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_a_very_large_weight_leaves_one_reference(
    model, adapter, clip_vision, prompts, aggregation
):
    images = make_images(3)
    references = encode(adapter, clip_vision, images, "1, 1e9, 1")
    alone = encode(adapter, clip_vision, {"reference_image_0": images["reference_image_1"]})
    steered = run(apply(model, adapter, references, aggregation=aggregation), prompts)
    assert_close(steered, run(apply(model, adapter, alone, aggregation=aggregation), prompts))


@on_sd1
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_every_reference_counts(model, adapter, references, clip_vision, prompts, aggregation):
    others = make_images(3) | {"reference_image_2": make_images(1, seed=77)["reference_image_0"]}
    a = run(apply(model, adapter, references, aggregation=aggregation), prompts)
    changed = encode(adapter, clip_vision, others)
    assert_differ(run(apply(model, adapter, changed, aggregation=aggregation), prompts), a)


@on_sd1
def test_the_aggregations_differ_for_several_references(model, adapter, references, prompts):
    concat, mean, learned = (
        run(apply(model, adapter, references, aggregation=name), prompts) for name in AGGREGATIONS
    )
    assert_differ(mean, concat)
    assert_differ(learned, mean)
    assert_differ(learned, concat)


def test_kept_references_give_the_same_picture(sd15, clip_vision, prompts, tmp_path):
    adapter = make_adapter(sd15, PLUS)
    references = encode(adapter, clip_vision, make_images(3), "1, 2, 3")
    save_references(references, tmp_path / "anna.safetensors")
    kept = load_references(tmp_path / "anna.safetensors")
    a = run(apply(sd15, adapter, references), prompts)
    assert torch.equal(run(apply(sd15, adapter, kept), prompts), a)


def test_applying_leaves_the_input_model_as_it_was(model, adapter, references, prompts):
    before = state_of(model)
    weights = [p.clone() for p in model.model.parameters()]
    plain = run(model, prompts)
    once = apply(model, adapter, references)
    state_once = state_of(once)
    twice = apply(once, adapter, references, weight=0.5)
    run(twice, prompts)
    assert state_of(model) == before
    assert state_of(once) == state_once
    assert torch.equal(run(model, prompts), plain)
    assert all(torch.equal(a, b) for a, b in zip(model.model.parameters(), weights, strict=True))


def test_applying_again_and_sampling_again_give_the_same(model, adapter, references, prompts):
    patched = apply(model, adapter, references)
    first = run(patched, prompts)
    assert torch.equal(run(patched, prompts), first)
    assert torch.equal(run(apply(model, adapter, references), prompts), first)


@on_sd1
def test_applying_twice_in_a_row_adds_twice(model, adapter, references, prompts):
    """Two adapters of 0.5 are one of 1, as lambda multiplies a sum."""
    half = apply(model, adapter, references, weight=0.5)
    assert_close(
        run(apply(half, adapter, references, weight=0.5), prompts),
        run(apply(model, adapter, references, weight=1.0), prompts),
    )


@on_sd1
def test_two_branches_of_one_model_do_not_see_each_other(
    model, adapter, references, clip_vision, prompts
):
    """Model -> A -> B and A -> C: what B and C add stays with them."""
    others = encode(adapter, clip_vision, make_images(2, seed=40))
    a = apply(model, adapter, references, weight=0.6)
    before = run(a, prompts)
    b = apply(a, adapter, others, weight=0.4)
    c = apply(a, adapter, others, weight=-0.4)
    b_alone, c_alone = run(b, prompts), run(c, prompts)
    assert torch.equal(run(a, prompts), before)
    assert torch.equal(run(b, prompts), b_alone)
    assert_differ(b_alone, before)
    assert_differ(c_alone, b_alone)


def test_the_null_image_is_what_the_negative_prompt_sees(model, adapter, references, prompts):
    """Guidance compares text and references with neither: cfg 1 has no rows of the null image."""
    patched = apply(model, adapter, references)
    with recorded(patched) as calls:
        run(patched, prompts, cfg=1.0, steps=1)
        run(patched, prompts, cfg=7.0, steps=1)
    alone, both = calls
    rows = len(alone.x)
    place = both.options["cond_or_uncond"].index(0)
    assert_close(both.out[place * rows : (place + 1) * rows], alone.out)
