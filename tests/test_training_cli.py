"""`python -m multi_ipadapter.training` as a process: train, stop, resume, refuse, in parallel."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from multi_ipadapter.training.__main__ import train
from multi_ipadapter.training.command import main, read_arguments

from .people import damage, settings_with, write_people

COMMAND = [sys.executable, "-m", "multi_ipadapter.training"]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A config file for the demo's models; paths in it are below its folder."""
    folder = tmp_path_factory.mktemp("headless")
    write_people(folder / "people")
    settings = {"checkpoint": "demo", "dataset": str(folder / "people"), "precision": "fp32"}
    settings |= {"size": 64, "batch_size": 2, "learning_rate": 1e-3, "schedule": "constant"}
    path = folder / "run.toml"
    path.write_text("# for a test\n\n" + settings_with(**settings, output=str(folder / "run")))
    return path


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def start(*arguments, command=COMMAND):
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def finish(process) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def losses_of(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [loss for line in map(json.loads, lines) for loss in line.get("losses", [])]


@pytest.mark.process
def test_stop_resume_and_refuse(config, capsys):
    run = config.parent / "run"
    process = start("--config", config, "steps=500")
    for line in process.stdout:
        if line.startswith("step 3 "):
            process.send_signal(signal.SIGTERM)
            break
    code, _, err = finish(process)
    assert code == 3 and "stopping after this step" in err, err
    before = losses_of(run)
    assert 3 <= len(before) < 500
    assert [p.name for p in run.glob("state-*")] == [f"state-{len(before):08}.safetensors"]

    steps = len(before) + 2
    code, out, err = finish(start("--config", config, f"steps={steps}"))
    assert code == 0, err
    assert re.findall(r"^step (\d+) ", out, re.MULTILINE) == [str(steps - 1), str(steps)]
    assert f"step {steps}: {run / 'adapter.safetensors'}" in out
    losses = losses_of(run)
    assert losses[:-2] == before and len(losses) == steps
    with safe_open(run / "adapter.safetensors", "pt") as file:
        training = json.loads(file.metadata()["multi_ipadapter"])["training"]
    assert training["steps"] == steps
    assert str(config.parent) not in json.dumps(training), "no paths of this machine"

    message = error_of(capsys, "--config", config, "--no-resume", f"steps={steps + 1}")
    assert "run holds a run already" in message


@pytest.mark.process
def test_a_report_comes_first_and_bad_files_are_named(config, tmp_path):
    people = write_people(tmp_path / "people", identities=3)
    (people / "p00/1.png").write_bytes(b"")
    damage(people, "p01/2.png")
    settings = ["steps=1", f"dataset={people}", f"output={tmp_path / 'run'}"]
    code, out, err = finish(start("--config", config, *settings))
    assert code == 0, err
    report, _, steps = out.partition("step 1 ")
    assert steps and f"Dataset {people}" in report
    assert "12 pictures of 3 identities; usable: 11 pictures of 3" in report
    assert "corrupt: 1 (" in report
    assert "Left out of the dataset: 1\n  p01/2.png: " in err
    assert "Traceback" not in err


@pytest.mark.process
def test_two_processes_train_the_same_run(config, monkeypatch):
    """The global batch is the same, so the losses are."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # with --cpu it would start one process only
    one, two = config.parent / "one", config.parent / "two"
    same = ["validate_every=2", "previews=1", "steps=3"]
    assert main(train, ["--config", str(config), *same, f"output={one}"]) == 0  # starts no Python
    launch = [sys.executable, "-m", "accelerate.commands.launch"]
    launch += ["--multi_gpu", "--num_processes=2", "--main_process_port=0"]
    launch += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "-m"]
    command = [*launch, "multi_ipadapter.training"]
    code, out, err = finish(start("--config", config, *same, f"output={two}", command=command))
    assert code == 0, err
    assert len(re.findall("^step 3 ", out, re.MULTILINE)) == 1, "one process reports"
    assert losses_of(two) == pytest.approx(losses_of(one), abs=1e-5)
    names = [sorted(p.name for p in folder.iterdir()) for folder in (one, two)]
    assert names[0] == names[1]


# ---- settings ----------------------------------------------------------------------------------


def error_of(capsys, *arguments) -> str:
    assert main(train, list(map(str, arguments))) == 1
    text = capsys.readouterr().err
    assert text.startswith("training: ") and "Traceback" not in text
    return text


def test_the_command_line_wins_over_the_file(config):
    job, resume = read_arguments(
        ["--config", str(config), "steps=7", "precision=bf16", "cache=false", "output=it's here"]
    )
    assert (job.run.steps, job.run.precision, job.run.learning_rate) == (7, "bf16", 1e-3)
    assert job.data.cache is False and job.files["output"] == "it's here" and resume
    assert not read_arguments(["--config", str(config), "--no-resume"])[1]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("speed=3", "unknown settings speed"),
        ("steps=many", "steps = many; expected a value of type int"),
        ("precision=fp8", "expected one of fp32, bf16, fp16"),
        ("size=65", "size = 65; expected a multiple of 8"),
        ("dataset=", "The setting dataset is missing"),
        ("output=", "The setting output is missing"),
        ("checkpoint=model.safetensors", "The setting clip_vision is missing"),
    ],
)
def test_bad_settings(config, capsys, setting, expected):
    assert expected in error_of(capsys, "--config", config, setting)


def test_missing_files(config, capsys, monkeypatch, tmp_path):
    assert "none.toml" in error_of(capsys, "--config", tmp_path / "none.toml")
    missing = [f"{name}={tmp_path / name}.safetensors" for name in ("checkpoint", "clip_vision")]
    message = error_of(capsys, "--config", config, *missing)
    assert "There is no file" in message and "check the setting checkpoint" in message
    message = error_of(capsys, "--config", config, f"dataset={tmp_path / 'nobody'}")
    assert "There is no dataset at" in message and "one folder for each identity" in message
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    message = error_of(capsys, "--config", config)
    assert "ComfyUI is not found" in message and "Set COMFYUI_PATH" in message


@pytest.fixture(autouse=True)
def _signals():
    """What `main` does to them stays in its test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
