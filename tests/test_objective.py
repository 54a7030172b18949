"""The loss against formulas written out, and the settings that shape it."""

from __future__ import annotations

import pytest
import torch

from multi_ipadapter.diffusion.objective import (
    Noise,
    add_noise,
    draw_noise,
    min_snr_weight,
    prediction_target,
    row_losses,
)
from multi_ipadapter.runs.streams import step_noise
from multi_ipadapter.training.config import TrainingConfig
from multi_ipadapter.training.job import parse_settings, read_job

from .builders import assert_says, refusal

ALPHAS = torch.tensor([0.99, 0.75, 0.3, 0.02])
TIMES = torch.tensor([0, 1, 2, 3, 1])


def drawn(seed=0):
    random = torch.Generator().manual_seed(seed)
    latents, eps = torch.randn(2, 5, 4, 3, 2, generator=random)
    return latents, Noise(eps, TIMES)


def test_noise_is_added_by_the_schedule():
    latents, noise = drawn()
    noisy = add_noise(latents, noise, ALPHAS)
    for i, t in enumerate(TIMES):
        a = ALPHAS[t].item()
        wanted = a**0.5 * latents[i] + (1 - a) ** 0.5 * noise.noise[i]
        torch.testing.assert_close(noisy[i], wanted)


def test_epsilon_and_v_targets_restore_the_picture():
    latents, noise = drawn()
    noisy = add_noise(latents, noise, ALPHAS)
    a = ALPHAS[TIMES].view(-1, 1, 1, 1)
    eps = prediction_target("epsilon", latents, noise, ALPHAS)
    v = prediction_target("v_prediction", latents, noise, ALPHAS)
    torch.testing.assert_close((noisy - (1 - a).sqrt() * eps) / a.sqrt(), latents)
    torch.testing.assert_close(a.sqrt() * noisy - (1 - a).sqrt() * v, latents)


def test_row_losses_are_means_over_the_places_that_count():
    predicted, noise = drawn()
    target = noise.noise
    plain = row_losses(predicted, target)
    mask = torch.rand(5, 1, 3, 2, generator=torch.Generator().manual_seed(1))
    mask[0] = 1
    masked = row_losses(predicted, target, mask)
    for i in range(5):
        error = (predicted[i] - target[i]) ** 2
        assert plain[i].item() == pytest.approx(error.mean().item(), rel=1e-5)
        share = mask[i] / mask[i].sum()
        assert masked[i].item() == pytest.approx((error.mean(0) * share[0]).sum().item(), rel=1e-5)
    assert masked[0].item() == pytest.approx(plain[0].item(), rel=1e-5)
    # A mask says where to look, not how much a row counts.
    torch.testing.assert_close(row_losses(predicted, target, 0.3 * mask), masked)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_weights(prediction):
    weights = min_snr_weight(5.0, prediction, TIMES, ALPHAS)
    for weight, t in zip(weights, TIMES, strict=True):
        snr = ALPHAS[t].item() / (1 - ALPHAS[t].item())
        below = snr if prediction == "epsilon" else snr + 1
        assert weight.item() == pytest.approx(min(snr, 5.0) / below, rel=1e-4)


def test_noise_is_drawn_from_seed_and_step_alone():
    shape = (64, 4, 8, 8)
    first = draw_noise(step_noise(3, 7), shape, 1000)
    torch.randn(5)
    again = draw_noise(step_noise(3, 7), shape, 1000)
    assert torch.equal(first.noise, again.noise) and torch.equal(first.timesteps, again.timesteps)
    for random in (step_noise(4, 7), step_noise(3, 8)):
        other = draw_noise(random, shape, 1000)
        assert not torch.equal(first.noise, other.noise)
        assert not torch.equal(first.timesteps, other.timesteps)


def test_noise_offset_shifts_whole_channels():
    shape = (256, 4, 8, 8)
    plain = draw_noise(step_noise(3, 0), shape, 1000)
    shifted = draw_noise(step_noise(3, 0), shape, 1000, noise_offset=0.5)
    shift = shifted.noise - plain.noise
    assert (shift - shift.mean((2, 3), keepdim=True)).abs().max() < 1e-5
    assert shift.mean((2, 3)).std().item() == pytest.approx(0.5, rel=0.1)
    assert torch.equal(shifted.timesteps, plain.timesteps)


def test_timesteps_are_uniform():
    times = draw_noise(step_noise(3, 0), (8000, 1, 1, 1), 10).timesteps
    counts = times.bincount(minlength=10).float()
    assert len(counts) == 10
    assert ((counts - 800) ** 2 / 800).sum() < 27.9  # chi-square, 9 degrees, p = 0.001


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("steps = 2000", 2000),
        ("steps = 10_000  # a comment_with = signs", 10_000),
        ("learning_rate = 1e-4", 1e-4),
        ("learning_rate = 2.5E-3#close", 2.5e-3),
        ("seed = -5", -5),
        ("seed = -1_000", -1000),
        ("cache = true", True),
        ('dataset = "a # b"  # c', "a # b"),
        (r"dataset = 'C:\new # folder'", r"C:\new # folder"),
        ('dataset = ""', ""),
        ("weight_decay = 0.0", 0.0),
        ("projection = linear", "linear"),
        ("projection = linear  # a word", "linear"),
        ("start_from = a-b.safetensors", "a-b.safetensors"),
    ],
)
def test_settings_are_read(line, value):
    (read,) = parse_settings(f"# heading\n\n{line}\n").values()
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    "line",
    [
        "steps",
        "steps = ",
        "steps = 10 abc",
        "steps = 1.",
        "steps = [1]",
        "steps = {}",
        "dataset = 'a' b",
        "[data]",
        "my-steps = 3",
    ],
)
def test_lines_of_another_form_are_refused(line):
    assert_says(refusal(parse_settings, line), "Line", "expected 'name = value'")


def test_a_setting_given_twice_is_named():
    assert_says(refusal(parse_settings, "steps = 1\nsteps = 2"), "setting steps is given twice")


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"stepps": 3}, ["stepps", "did you mean steps?"]),
        ({"steps": 0}, ["steps = 0", "at least 1"]),
        ({"steps": 3.0}, ["steps = 3.0", "type int"]),
        ({"steps": True}, ["steps = True", "type int"]),
        ({"cache": 1}, ["cache"]),
        ({"learning_rate": "fast"}, ["learning_rate = fast", "type float"]),
        ({"learning_rate": 0}, ["learning_rate", "more than 0"]),
        ({"learning_rate": float("nan")}, ["learning_rate = nan"]),
        ({"learning_rate": float("inf")}, ["learning_rate = inf"]),
        ({"precision": "fp8"}, ["precision = fp8", "fp32, bf16, fp16"]),
        ({"drop_image": 0.5, "drop_text": 0.6}, ["drop"]),
        ({"drop_image": -0.1}, ["drop_image = -0.1", "between 0 and 1"]),
        ({"ema_decay": 1.0}, ["ema_decay", "less than 1"]),
        ({"seed": -1}, ["seed = -1", "at least 0"]),
        ({"warmup": -1}, ["warmup = -1", "at least 0"]),
        ({"clip_norm": -1.0}, ["clip_norm = -1.0", "at least 0"]),
        ({"final_learning_rate": 2.0}, ["final_learning_rate = 2.0", "between 0 and 1"]),
        ({"slots": 2, "max_references": 3}, ["max_references = 3", "at most 2"]),
        ({"size": 100}, ["size = 100", "multiple of 8"]),
        ({"held_out": 1.0}, ["held_out = 1.0"]),
    ],
)
def test_settings_out_of_range_are_refused(values, parts):
    assert_says(refusal(read_job, values), *parts)


def test_settings_are_sorted_into_their_parts():
    job = read_job({"steps": 7, "size": 64, "output": "run", "weight_decay": 0})
    assert (job.run.steps, job.data.size, job.files) == (7, 64, {"output": "run"})
    assert type(job.run.weight_decay) is float
    assert job.run.learning_rate == TrainingConfig().learning_rate
