"""Training without the graph: `python -m multi_ipadapter.training --config run.toml`.

Several processes or machines: `accelerate launch -m multi_ipadapter.training --config run.toml`.
Needs ComfyUI, whose loaders read the checkpoint: the pack lies in its custom_nodes folder, or
COMFYUI_PATH names it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from ..runs.processes import OneProcess, StopSignals, start_processes
from .job import DEMO, Job, parse_settings, read_job
from .loop import Report, TrainingError
from .run import ADAPTER, Result, Watcher, where_it_begins

PROGRAM = "python -m multi_ipadapter.training"
# Trains a job, resuming it or not, on ComfyUI's models; None when stopped before the first step.
Train = Callable[[Job, bool, Watcher, OneProcess], Result | None]


def main(train: Train, arguments: list[str] | None = None, program: str = PROGRAM) -> int:
    """Command line; 0 when finished, 3 when stopped before the last step."""
    try:
        job, resume = read_arguments(arguments, program)
        processes = start_processes()
        stop = StopSignals()
        finished = run_job(job, resume, train, processes, stop)
        processes.close()
    except (ValueError, OSError, TrainingError) as error:
        print(f"training: {error}", file=sys.stderr)
        return 1
    return 0 if finished else 3


def read_arguments(arguments: list[str] | None, program: str = PROGRAM) -> tuple[Job, bool]:
    """The job of a config file, with settings on the command line over it."""
    parser = argparse.ArgumentParser(prog=program, description="Train without the graph.")
    parser.add_argument("--config", type=Path, help="settings, one 'name = value' on each line")
    parser.add_argument("--no-resume", action="store_true", help="refuse a folder that holds a run")
    parser.add_argument(
        "settings", nargs="*", metavar="name=value", help="settings over those of the file"
    )
    options = parser.parse_args(arguments)
    text = _config_text(options.config) if options.config else ""
    values = parse_settings(text) | parse_settings("\n".join(map(_quoted, options.settings)))
    job = read_job(values)
    needed = ["checkpoint", "clip_vision", "output"]
    if job.files.get("checkpoint") == DEMO:
        needed.remove("clip_vision")
    given = job.files | {"dataset": job.data.dataset}
    for name in (*needed, "dataset"):
        if not given.get(name):
            raise ValueError(f"The setting {name} is missing; expected a path.")
    return job, not options.no_resume


def _config_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ValueError(
            f"--config {path} cannot be read: {reason}. Expected a text file of settings, such as "
            "run.toml."
        ) from error


def _quoted(setting: str) -> str:
    """A text on the command line needs no quotes of its own."""
    name, _, value = setting.partition("=")
    try:
        parse_settings(setting)
    except ValueError:
        return f"{name} = {json.dumps(value)}"
    return setting


def run_job(job: Job, resume: bool, train: Train, processes: OneProcess, stop: StopSignals) -> bool:
    """True when the last step is done."""
    first = processes.rank == 0
    watcher = Watcher(
        on_start=lambda step: print(where_it_begins(step, job.run.steps), flush=True),
        on_step=lambda report: print(_line(report), flush=True),
        on_validation=lambda report, _: print(report, flush=True),
        should_stop=stop,
    )
    result = train(job, resume, watcher, processes)
    step = result.step if result else 0
    finished = result is not None and result.finished
    if first and step:
        print(f"step {step}: {Path(job.files['output']) / ADAPTER}")
    if first and not finished:
        told = "" if step else "stopped before the first step, nothing is learned yet; "
        print(f"{told}the same command goes on")
    return finished


def _line(report: Report) -> str:
    return (
        f"step {report.step}  loss {report.loss:.5f}  lr {report.learning_rate:.2e}  "
        f"gradient {report.gradient_norm:.3f}  {report.samples_per_second:.1f} samples/s  "
        f"waited {report.waited:.1%}"
    )
