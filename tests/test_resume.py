"""A run that was killed, stopped or broken goes on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from multi_ipadapter.models.checkpoint import load_adapter
from multi_ipadapter.runs.metrics import MetricsFile, curves, read_metrics
from multi_ipadapter.runs.state import check_other_run, checkpoints
from multi_ipadapter.training.config import MAY_CHANGE
from multi_ipadapter.training.run import Watcher
from multi_ipadapter.training.validation import Interval, ValidationReport
from multi_ipadapter.training.window import Report

from .builders import assert_says, refusal
from .training_world import make_run, one_layer_backbone, settings

CHANGES = {"checkpoint_every": 4, "accumulation": 2, "keep_checkpoints": 2}


@pytest.fixture(autouse=True)
def _autograd():
    with torch.inference_mode(False):
        yield


def run_in(folder, backbone=None, fingerprint=None, **changes):
    return make_run(folder, settings(**CHANGES | changes), backbone, fingerprint=fingerprint)


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


# Writes: settings, metrics, states at 4, 8, 12 (at the step and at the end), and the adapter.
KILLS = ("kill 6", "replace 2", "fsync 3", "replace 4", "replace 7")
SIGNALS = ("term", "int")


def run_processes(runs, *launcher, environment=None):
    """What `training_process` prints; `launcher` comes between Python and its name."""
    root = Path(__file__).parents[1]
    path = os.pathsep.join([str(root), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "tests.training_process", json.dumps(runs)],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | (environment or {}),
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """By what broke a run: its exit code and its folder."""
    folders = {kill: tmp_path_factory.mktemp("broken") for kill in KILLS}
    folders |= {signal: tmp_path_factory.mktemp("broken") for signal in SIGNALS}
    runs = [
        (str(folder), CHANGES, f"{how} 5" if how in SIGNALS else how)
        for how, folder in folders.items()
    ]
    _, *codes = run_processes(runs).split("\n")[:-1]
    return {how: (int(code), folders[how]) for how, code in zip(folders, codes, strict=True)}


@pytest.mark.process
@pytest.mark.parametrize("kill", KILLS)
def test_killed_at_any_moment(broken, unbroken, kill):
    code, folder = broken[kill]
    assert code == -9
    for path in checkpoints(folder):
        assert state(folder), path
    run = run_in(folder)
    assert run.go().finished
    assert_same(folder, unbroken)


@pytest.mark.process
@pytest.mark.parametrize("signal", SIGNALS)
def test_signals_save_and_stop(broken, unbroken, signal):
    code, folder = broken[signal]
    assert code == 3
    assert checkpoints(folder)[-1].name == "state-00000005.safetensors"
    assert load_adapter(folder / "adapter.safetensors").config.training["steps"] == 5
    assert run_in(folder).go().finished
    assert_same(folder, unbroken)


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
    ("changes", "fingerprint", "named"),
    [({"weight_decay": 0.2}, {}, "weight_decay"), ({}, {"data": "others"}, "data")],
)
def test_the_folder_of_another_run_is_refused(tmp_path, changes, fingerprint, named):
    run_in(tmp_path).go()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    other = run_in(tmp_path, fingerprint=fingerprint, **changes)
    message = refusal(other.go)
    assert_says(message, "another run", named, "new folder")
    assert named in refusal(check_other_run, tmp_path, other.trainer.fingerprint, MAY_CHANGE)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_looking_whose_run_it_is_needs_one_whole_state(tmp_path):
    other = run_in(tmp_path, weight_decay=0.2).trainer.fingerprint
    check_other_run(tmp_path, other, MAY_CHANGE)
    run_in(tmp_path).go()
    check_other_run(tmp_path, run_in(tmp_path, batch_size=2).trainer.fingerprint, MAY_CHANGE)
    *_, before, newest = checkpoints(tmp_path)
    newest.write_bytes(newest.read_bytes()[:-100])
    assert before.name in refusal(check_other_run, tmp_path, other, MAY_CHANGE)
    before.write_bytes(b"no tensors")
    check_other_run(tmp_path, other, MAY_CHANGE)


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 1e-3},
        {"projection_learning_rate": 1e-4},
        {"clip_norm": 0.5},
        {"precision": "bf16"},
        {"batch_size": 2, "accumulation": 4},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_what_an_error_advises_to_change_may_change(tmp_path, unbroken, caplog, changes):
    run_in(tmp_path, steps=6, schedule="constant").go()
    before = losses(tmp_path)
    assert run_in(tmp_path, steps=6, schedule="constant").go().finished
    assert not caplog.records
    again = run_in(tmp_path, schedule="constant", **changes)
    reports = []
    assert again.go(Watcher(on_step=reports.append)).finished
    assert [r.step for r in reports] == [7, 8, 9, 10, 11, 12]
    assert {r.learning_rate for r in reports} == {again.config.learning_rate}
    groups = again.trainer.optimizer.param_groups
    rates = [changes.get("projection_learning_rate"), changes.get("learning_rate")]
    assert [g["lr"] for g in groups] == [rates[0] or rates[1] or 3e-3, rates[1] or 3e-3]
    found = losses(tmp_path)
    assert {k: found[k] for k in before} == before and set(found) == set(range(1, 13))
    for name, value in changes.items():
        old = getattr(settings(**CHANGES), name)
        assert f"resumed with another {name}: {old!r} there, {value!r} now" in caplog.text
    assert len(caplog.records) == len(changes)


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path):
    run_in(tmp_path).go()
    assert_says(refusal(run_in(tmp_path).go, resume=False), "holds a run already")


@contextmanager
def full_disk_from(step):
    """A watcher that lets no file grow beyond 20,000 bytes; a state has more, the metrics less.

    The limit of the system on a file's size stands for a full disk.
    """
    import resource  # not on Windows

    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_step(report):
        if report.step == step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))

    try:
        yield Watcher(on_step=on_step)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("step", "left"),
    [(2, "no checkpoint exists yet"), (6, "state-00000004.safetensors, is intact")],
)
def test_a_full_disk(tmp_path, unbroken, step, left):
    with full_disk_from(step) as watcher:
        message = refusal(run_in(tmp_path).go, watcher, kind=OSError)
    assert_says(message, "could not be written", "too large", "Free space", left)
    kept = [p.name for p in checkpoints(tmp_path)]
    assert kept == ["state-00000004.safetensors"][: step // 4]
    assert all(p.stat().st_size > 20_000 for p in checkpoints(tmp_path))
    assert run_in(tmp_path).go().finished
    assert_same(tmp_path, unbroken)


def test_one_process_at_a_time(tmp_path, unbroken):
    def on_step(report):
        if report.step == 5:
            second = run_in(tmp_path)
            messages.append(refusal(second.go))
            assert second.trainer.progress.step == 0

    messages = []
    assert run_in(tmp_path).go(Watcher(on_step=on_step)).finished
    assert_says(*messages, "trained by another process", "choose another name")
    assert_same(tmp_path, unbroken)


def test_what_is_no_number_is_null_in_the_metrics(tmp_path):
    """JSON knows neither infinity nor NaN."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "train", "step": 1, "losses": [0.5], "gradient_norm": Infinity}\n')
    metrics = MetricsFile(tmp_path, resumed_from=1)
    metrics.step(asdict(Report(2, 1.0, 1e-3, float("inf"), 2.0, 0.0, (1.0,))))
    nothing = Interval(float("nan"), 0.0, float("inf"))
    metrics.validation(
        ValidationReport(2, 2, *[nothing] * 5, attention_ratio=(float("nan"), 1.0)).to_dict()
    )
    metrics.close()

    def refuse(name):
        raise AssertionError(name)

    lines = path.read_text().splitlines()
    first, train, check = [json.loads(line, parse_constant=refuse) for line in lines]
    assert first["gradient_norm"] is None and train["gradient_norm"] is None
    assert check["matched"] == {"mean": None, "low": 0.0, "high": None}
    assert check["attention_ratio"] == [None, 1.0]
    assert curves(read_metrics(path)) == {
        "loss": [(1, 0.5), (2, 1.0)],
        "matched": [],
        "none": [],
        "shuffled": [],
    }


def test_a_finished_run_goes_on_with_more_steps_or_stays(tmp_path):
    run_in(tmp_path, schedule="constant").go()
    before = state(tmp_path)
    again = run_in(tmp_path, schedule="constant").go()
    assert again.finished and all(torch.equal(v, before[k]) for k, v in state(tmp_path).items())
    more = run_in(tmp_path, schedule="constant", steps=14).go()
    assert more.step == 14 and set(losses(tmp_path)) == set(range(1, 15))
