"""Two processes on the CPU learn what one does with the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .test_resume import losses, state
from .training_world import make_run, settings

pytestmark = pytest.mark.process


@pytest.fixture(autouse=True)
def _autograd():
    with torch.inference_mode(False):
        yield


def launch(folder, changes):
    root = Path(__file__).parents[1]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)]),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
    launcher += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    launcher += ["--main_process_port=0", "--num_cpu_threads_per_process=1", "-m"]
    done = subprocess.run(
        [sys.executable, *launcher, "tests.training_process", str(folder), json.dumps(changes), ""],
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(done.stdout.split("\n")) == ["", "process 0 of 2", "process 1 of 2"]


def alone(folder, changes):
    run = make_run(folder, settings(**changes))
    assert run.go().finished


@pytest.mark.parametrize(
    "changes",
    [{"accumulation": 2}, {"slots": 3, "aggregation": "mean"}],
    ids=["accumulation", "slots"],
)
def test_two_processes_match_one(tmp_path, changes):
    changes = changes | {"steps": 20, "drop_image": 0.2}
    alone(tmp_path / "one", changes)
    launch(tmp_path / "two", changes)
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    assert one.keys() == two.keys()
    assert max(float((one[k] - two[k]).abs().max()) for k in one) < 1e-5
    first, second = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert first.keys() == second.keys() == set(range(1, 21))
    assert max(abs(first[k] - second[k]) for k in first) < 1e-5


def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    changes = {"schedule": "constant"}
    alone(tmp_path / "one", changes | {"steps": 20})
    alone(tmp_path / "mixed", changes | {"steps": 6})
    launch(tmp_path / "mixed", changes | {"steps": 14})
    alone(tmp_path / "mixed", changes | {"steps": 20})
    one, mixed = state(tmp_path / "one"), state(tmp_path / "mixed")
    assert max(float((one[k] - mixed[k]).abs().max()) for k in one) < 1e-5
    assert losses(tmp_path / "mixed").keys() == set(range(1, 21))
