"""Training runs in a process of their own: python -m tests.training_process RUNS.

RUNS is JSON of [[folder, changes of the settings, kill], ...]. With a `kill` like "step 5" or
"replace 2" the run is there killed, in a fork, and its exit code printed: importing PyTorch once
serves them all.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from typing import Any

import torch

from multi_ipadapter.runs.processes import OneProcess, StopSignals, start_processes
from multi_ipadapter.training.run import Watcher
from tests.training_world import make_run, settings


def main(runs: str) -> int:
    """The exit code of the first run that was not to be killed and did not finish, or 0."""
    torch.set_num_threads(1)
    processes = start_processes()
    print(f"process {processes.rank} of {processes.count}\n", end="", flush=True)
    for folder, changes, kill in json.loads(runs):
        if kill:
            print(in_a_fork(folder, changes, kill), flush=True)
        elif not train(folder, changes, processes):
            return 3
    processes.close()
    return 0


def in_a_fork(folder: str, changes: dict[str, Any], kill: str) -> int:
    """The exit code of a run that is killed, or stops and says so with 3."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        code = 0 if train(folder, changes, OneProcess(), kill) else 3
    except BaseException:
        traceback.print_exc()
        code = 1
    os._exit(code)


def train(folder: str, changes: dict[str, Any], processes: OneProcess, kill: str = "") -> bool:
    """Whether the run went to its end."""
    run = make_run(folder, settings(**changes), processes=processes)
    what, _, when = kill.partition(" ")
    if what in ("replace", "fsync"):
        die_inside(what, int(when))

    def on_step(report) -> None:
        if what in ("kill", "term", "int") and report.step == int(when):
            name = {"kill": "SIGKILL", "term": "SIGTERM", "int": "SIGINT"}[what]
            os.kill(os.getpid(), getattr(signal, name))

    return run.go(Watcher(on_step=on_step, should_stop=StopSignals())).finished


def die_inside(name: str, when: int) -> None:
    """kill -9 at the n-th call of os.<name>, before it has done anything."""
    original, calls = getattr(os, name), []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) == when:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(os, name, call)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
