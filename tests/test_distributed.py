"""Two processes on the CPU learn what one does with the same global batch."""

from __future__ import annotations

import pytest
import torch

from .test_resume import losses, run_processes, state
from .training_world import make_run, settings

pytestmark = pytest.mark.process


@pytest.fixture(autouse=True)
def _autograd():
    with torch.inference_mode(False):
        yield


LAUNCHER = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2")
LAUNCHER += ("--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no")
LAUNCHER += ("--main_process_port=0", "--num_cpu_threads_per_process=1")
MATCHED = {
    "accumulation": {"accumulation": 2, "steps": 20, "drop_image": 0.2},
    "slots": {"slots": 3, "aggregation": "mean", "steps": 20, "drop_image": 0.2},
}
CONSTANT = {"schedule": "constant"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Below it, runs of two processes, all in one start of them; `mixed` was begun by one."""
    folder = tmp_path_factory.mktemp("two")
    with torch.inference_mode(False):
        alone(folder / "mixed", CONSTANT | {"steps": 6})
    runs = [(str(folder / name), changes, "") for name, changes in MATCHED.items()]
    runs.append((str(folder / "mixed"), CONSTANT | {"steps": 14}, ""))
    told = run_processes(runs, *LAUNCHER, environment={"ACCELERATE_USE_CPU": "true"})
    assert sorted(told.split("\n")) == ["", "process 0 of 2", "process 1 of 2"]
    return folder


def alone(folder, changes):
    run = make_run(folder, settings(**changes))
    assert run.go().finished


@pytest.mark.parametrize("name", MATCHED)
def test_two_processes_match_one(folder, tmp_path, name):
    alone(tmp_path, MATCHED[name])
    one, two = state(tmp_path), state(folder / name)
    assert one.keys() == two.keys()
    assert max(float((one[k] - two[k]).abs().max()) for k in one) < 1e-5
    first, second = losses(tmp_path), losses(folder / name)
    assert first.keys() == second.keys() == set(range(1, 21))
    assert max(abs(first[k] - second[k]) for k in first) < 1e-5


def test_a_run_goes_on_with_another_number_of_processes(folder, tmp_path):
    alone(tmp_path, CONSTANT | {"steps": 20})
    alone(folder / "mixed", CONSTANT | {"steps": 20})
    one, mixed = state(tmp_path), state(folder / "mixed")
    assert max(float((one[k] - mixed[k]).abs().max()) for k in one) < 1e-5
    assert losses(folder / "mixed").keys() == set(range(1, 21))
