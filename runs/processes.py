"""One process, or several under accelerate: what differs between them."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn


class OneProcess:
    """Training on one device, without accelerate."""

    rank, count = 0, 1

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module to call in the loop."""
        return module

    def without_sync(self, module: nn.Module) -> AbstractContextManager:
        """Gradients of a micro-step that is not the last of its step."""
        return nullcontext()

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the processes."""
        return value

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return flag

    def wait(self) -> None:
        """Until all processes are here."""

    def close(self) -> None:
        """Leave the others, at the end of a run."""


class Accelerated(OneProcess):
    """Training in several processes, which `accelerate launch` started."""

    def __init__(self, accelerator: Any):
        self.accelerator = accelerator
        self.rank = accelerator.process_index
        self.count = accelerator.num_processes

    def wrap(self, module: nn.Module) -> nn.Module:
        return self.accelerator.prepare_model(module)

    def without_sync(self, module: nn.Module) -> AbstractContextManager:
        return self.accelerator.no_sync(module)

    def mean(self, value: Tensor) -> Tensor:
        return self.accelerator.reduce(value, "mean")

    def any(self, flag: bool) -> bool:
        told = torch.tensor(float(flag), device=self.accelerator.device)
        return bool(self.accelerator.reduce(told, "sum") > 0)

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()

    def close(self) -> None:
        # Gloo aborts a process that goes, or whose peer goes, with the group still open.
        self.wait()
        self.accelerator.end_training()


def start_processes(timeout: timedelta | None = None) -> OneProcess:
    """Under `accelerate launch`, one of several processes.

    Args:
        timeout: how long one may wait for another; None: accelerate's.

    Raises:
        ValueError: accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return OneProcess()
    try:
        from accelerate import Accelerator, InitProcessGroupKwargs
    except ImportError as error:
        raise ValueError("Several processes need accelerate: pip install accelerate") from error
    handlers = [InitProcessGroupKwargs(timeout=timeout)] if timeout else None
    return Accelerated(Accelerator(mixed_precision="no", kwargs_handlers=handlers))


class StopSignals:
    """Ctrl-C and SIGTERM ask a command to stop soon; a second Ctrl-C insists."""

    def __init__(self, message: str = "training: stopping after this step"):
        self.asked, self._message = False, message
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def __call__(self) -> bool:
        return self.asked

    def _ask(self, number: int, _: Any) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
        print(self._message, file=sys.stderr)
