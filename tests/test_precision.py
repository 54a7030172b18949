"""Half precision: steps that the scaler skips, and gradients that are never finite."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from multi_ipadapter.training.initial import initial_adapter
from multi_ipadapter.training.loop import NotFiniteError, Trainer

from .builders import assert_says, refusal
from .training_world import WIDTHS, World, make_run, one_layer_backbone, settings


@pytest.fixture(autouse=True)
def _autograd():
    with torch.inference_mode(False):
        yield


def overflowing(steps):
    """A model whose gradient is infinite at these calls, counted from 1; its loss never is."""
    backbone, calls = one_layer_backbone(), []

    def denoise(*args):
        calls.append(1)
        out = backbone.denoise(*args)
        if len(calls) in steps:
            out.register_hook(lambda gradient: gradient * float("inf"))
        return out

    return dataclasses.replace(backbone, denoise=denoise)


def trainer_in(folder, steps, **changes):
    backbone = overflowing(steps)
    config = settings(precision="fp16", **changes)
    adapter = initial_adapter(config, backbone.text_weights(), WIDTHS)
    return Trainer(adapter, backbone, World(), config, folder)


def copies(tensors):
    return {k: v.detach().clone() for k, v in tensors.items()}


def same(first, second):
    return all(torch.equal(v, second[k]) for k, v in first.items())


def test_a_skipped_step_changes_neither_the_weights_nor_their_average():
    trainer = trainer_in(None, {4, 5})
    seen = []

    def on_step(report):
        seen.append((copies(trainer.adapter.state_dict()), copies(trainer.ema)))

    assert trainer.train(on_step=on_step)
    weights, averages = zip(*seen, strict=True)
    changed = [
        (not same(weights[i], weights[i + 1]), not same(averages[i], averages[i + 1]))
        for i in range(11)
    ]
    skipped = [i for i, each in enumerate(changed, 2) if each == (False, False)]
    assert skipped == [4, 5]
    assert all(each == (True, True) for i, each in enumerate(changed, 2) if i not in skipped)


@pytest.mark.parametrize(("log_every", "stops"), [(1, 18), (7, 21), (50, 24)])
def test_gradients_that_are_never_finite_stop_the_run(tmp_path, log_every, stops):
    """From step 9 on; at the first report after ten of them."""
    config = settings(precision="fp16", steps=60, log_every=log_every, checkpoint_every=8)
    bad = overflowing(set(range(9, 100)))
    run = make_run(tmp_path, config, bad)
    message = refusal(run.go, kind=NotFiniteError)
    assert_says(message, "too large for fp16", "loss scale", "steps changed nothing", "bf16")
    assert run.trainer.progress.step == stops
    kept = sorted(p.name for p in tmp_path.glob("state-*"))
    assert f"{kept[-1]}, is intact" in message
    again = dataclasses.replace(config, precision="fp32", steps=kept_step(kept[-1]) + 1)
    assert make_run(tmp_path, again).go().finished


def kept_step(name):
    return int(name[6:14])


def test_a_scale_that_has_collapsed_stops_the_run(tmp_path):
    trainer = trainer_in(tmp_path, {3})
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    with pytest.raises(NotFiniteError, match="fallen to 0.5.*no checkpoint exists yet"):
        trainer.train()
    assert trainer.progress.step == 3 and not trainer.intact
    assert list(tmp_path.iterdir()) == []


def test_a_scaler_that_finds_its_scale_goes_on():
    trainer = trainer_in(None, set(range(1, 10)))
    assert trainer.train()
    assert trainer.scaler.get_scale() == 2.0**16 / 2**9
