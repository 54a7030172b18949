"""A run that was killed, stopped or broken goes on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from multi_ipadapter.models.checkpoint import load_adapter
from multi_ipadapter.training.metrics import curves, read_metrics
from multi_ipadapter.training.run import Run, Watcher
from multi_ipadapter.training.state import checkpoints

from .builders import assert_says, refusal
from .training_world import WIDTHS, World, one_layer_backbone, settings

CHANGES = {"checkpoint_every": 4, "accumulation": 2, "keep_checkpoints": 2}


@pytest.fixture(autouse=True)
def _autograd():
    with torch.inference_mode(False):
        yield


def run_in(folder, backbone=None, identity=None, **changes):
    config = settings(**CHANGES | changes)
    return Run(
        folder, config, backbone or one_layer_backbone(), World(), None, WIDTHS, identity or {}
    )


def losses(folder):
    return dict(curves(read_metrics(folder / "metrics.jsonl"))["loss"])


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Losses and last weights of a run without a break."""
    folder = tmp_path_factory.mktemp("unbroken")
    with torch.inference_mode(False):
        run = run_in(folder)
        assert run.go().finished
    return losses(folder), state(folder)


def state(folder):
    return load_file(checkpoints(folder)[-1])


def assert_same(folder, unbroken):
    wanted, weights = unbroken
    found = losses(folder)
    assert found.keys() == wanted.keys() == set(range(1, 13))
    assert max(abs(found[k] - wanted[k]) for k in wanted) < 1e-6
    last = state(folder)
    assert last.keys() == weights.keys()
    assert max(float((last[k] - weights[k]).abs().max()) for k in weights) < 1e-6
    assert not [p.name for p in folder.iterdir() if p.name.endswith(".tmp")]


def in_process(folder, kill):
    root = Path(__file__).parents[1]
    path = os.pathsep.join([str(root), *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, "-m", "tests.training_process", str(folder), json.dumps(CHANGES), kill],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# Writes: states at 4, 8, 12 (twice: at the step and at the end) and then the adapter.
@pytest.mark.parametrize("kill", ["kill 6", "fsync 1", "replace 2", "replace 5"])
def test_killed_at_any_moment(tmp_path, unbroken, kill):
    done = in_process(tmp_path, kill)
    assert done.returncode == -9, done.stderr
    for path in checkpoints(tmp_path):
        assert state(tmp_path), path
    run = run_in(tmp_path)
    assert run.go().finished
    assert_same(tmp_path, unbroken)


@pytest.mark.parametrize("signal", ["term", "int"])
def test_signals_save_and_stop(tmp_path, unbroken, signal):
    done = in_process(tmp_path, f"{signal} 5")
    assert done.returncode == 3, done.stderr
    assert checkpoints(tmp_path)[-1].name == "state-00000005.safetensors"
    assert load_adapter(tmp_path / "adapter.safetensors").config.training["steps"] == 5
    assert run_in(tmp_path).go().finished
    assert_same(tmp_path, unbroken)


class Interrupt(BaseException):
    """As ComfyUI's: not an Exception."""


def test_an_interrupt_in_the_middle_of_a_step(tmp_path, unbroken):
    backbone, calls = one_layer_backbone(), []

    def denoise(*args):
        calls.append(1)
        if len(calls) == 12:  # the second half of step 6
            raise Interrupt
        return backbone.denoise(*args)

    run = run_in(tmp_path, dataclasses.replace(backbone, denoise=denoise))
    result = run.go(Watcher(stops=(Interrupt,)))
    assert not result.finished and result.step == 5
    assert run_in(tmp_path).go().finished
    assert_same(tmp_path, unbroken)


def test_a_damaged_state_gives_way_to_the_one_before(tmp_path, unbroken):
    run_in(tmp_path).go()
    newest = checkpoints(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    again = run_in(tmp_path)
    assert again.trainer.resume() and again.trainer.progress.step == 8
    assert again.go().finished
    assert_same(tmp_path, unbroken)


def test_all_states_damaged(tmp_path):
    run_in(tmp_path).go()
    for path in checkpoints(tmp_path):
        path.write_bytes(b"no tensors")
    assert_says(refusal(run_in(tmp_path).go), "No state can be read")


def test_the_last_states_are_kept(tmp_path):
    run_in(tmp_path, checkpoint_every=2).go()
    assert [int(p.stem[6:]) for p in checkpoints(tmp_path)] == [10, 12]


@pytest.mark.parametrize(
    ("changes", "identity", "named"),
    [({"learning_rate": 1e-3}, {}, "learning_rate"), ({}, {"data": "others"}, "data")],
)
def test_the_folder_of_another_run_is_refused(tmp_path, changes, identity, named):
    run_in(tmp_path).go()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    message = refusal(run_in(tmp_path, identity=identity, **changes).go)
    assert_says(message, "another run", named, "new folder")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path):
    run_in(tmp_path).go()
    assert_says(refusal(run_in(tmp_path).go, resume=False), "holds a run already")


def test_a_full_disk(tmp_path, unbroken, monkeypatch):
    calls, sync = [], os.fsync

    def full(*args):
        calls.append(1)
        if len(calls) >= 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return sync(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        message = refusal(run_in(tmp_path).go, kind=OSError)
    assert_says(message, "could not be written", "No space left", "Free space", "intact")
    assert [p.name for p in checkpoints(tmp_path)] == ["state-00000004.safetensors"]
    assert run_in(tmp_path).go().finished
    assert_same(tmp_path, unbroken)


def test_a_finished_run_goes_on_with_more_steps_or_stays(tmp_path):
    run_in(tmp_path, schedule="constant").go()
    before = state(tmp_path)
    again = run_in(tmp_path, schedule="constant").go()
    assert again.finished and all(torch.equal(v, before[k]) for k, v in state(tmp_path).items())
    more = run_in(tmp_path, schedule="constant", steps=14).go()
    assert more.step == 14 and set(losses(tmp_path)) == set(range(1, 15))
