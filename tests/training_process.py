"""A training run in a process of its own, to be killed: python -m tests.training_process ..."""

from __future__ import annotations

import json
import os
import signal
import sys

import torch

from multi_ipadapter.runs.processes import StopSignals, start_processes
from multi_ipadapter.training.run import Watcher
from tests.training_world import make_run, settings


def main(folder: str, changes: str, kill: str) -> int:
    """Train; `kill` is "step 5" or "replace 2": there the process kills itself."""
    torch.set_num_threads(1)
    processes = start_processes()
    print(f"process {processes.rank} of {processes.count}\n", end="", flush=True)
    config = settings(**json.loads(changes))
    run = make_run(folder, config, processes=processes)
    what, _, when = kill.partition(" ")
    if what in ("replace", "fsync"):
        die_inside(what, int(when))
    stop = StopSignals()

    def on_step(report) -> None:
        if what in ("kill", "term", "int") and report.step == int(when):
            name = {"kill": "SIGKILL", "term": "SIGTERM", "int": "SIGINT"}[what]
            os.kill(os.getpid(), getattr(signal, name))

    result = run.go(Watcher(on_step=on_step, should_stop=stop))
    processes.close()
    return 0 if result.finished else 3


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
    sys.exit(main(*sys.argv[1:4]))
