"""Losses and gradient norms since the last report: kept on the device, then checked and told."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from ..runs.processes import OneProcess
from .config import TrainingConfig

_MOST_SKIPPED = 10  # steps in a row; at the start a scaler skips a few to find its scale


@dataclass(frozen=True)
class Report:
    """What `on_step` is told, at most every `log_every` steps.

    `loss` and `gradient_norm` are means over the steps since the last report; `waited` is the
    share of the time that was spent waiting for data.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    samples_per_second: float
    waited: float
    losses: tuple[float, ...]


class Window:
    """Asks the device nothing before somebody asks for a report.

    Args:
        scaler: passes over a step whose gradient is not finite, if it is enabled.
    """

    def __init__(self, config: TrainingConfig, processes: OneProcess, scaler: torch.amp.GradScaler):
        self.config = config
        self.processes = processes
        self.scaler = scaler
        self._skipped = 0  # in a row, up to the last report
        self._clear()

    def _clear(self) -> None:
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.waited = 0.0
        self.began = time.perf_counter()

    def add(self, loss: Tensor, norm: Tensor) -> None:
        """Take the loss and the norm of the gradient of one step."""
        self.losses.append(loss)
        self.norms.append(norm)

    def problem(self) -> str:
        """Why training cannot go on after these steps, or ""; waits for the device."""
        if not self.losses:
            return ""
        if not _finite(self.losses).all():
            return "The loss is no longer a finite number"
        if not self.scaler.is_enabled():
            sound = bool(_finite(self.norms).all())
            return "" if sound else "The gradient of the loss is no longer finite"
        skipped, scale = self._skipped_in_a_row(), self.scaler.get_scale()
        if skipped < _MOST_SKIPPED and scale >= 1:
            return ""
        return (
            f"The gradient is too large for fp16: the loss scale has fallen to {scale:g}, and the "
            f"last {skipped} steps changed nothing"
        )

    def _skipped_in_a_row(self) -> int:
        finite = _finite(self.norms).tolist()
        if any(finite):
            return finite[::-1].index(True)
        return self._skipped + len(finite)

    def report(self, step: int, learning_rate: float) -> Report:
        """Means since the last report, over all processes, which must all call this."""
        losses = self.processes.mean(torch.stack(self.losses))
        seconds = time.perf_counter() - self.began
        rows = len(losses) * self.config.batch_size * self.config.accumulation
        report = Report(
            step,
            losses.mean().item(),
            learning_rate,
            torch.stack(self.norms).mean().item(),
            rows / seconds,
            self.waited / seconds,
            tuple(losses.tolist()),
        )
        self._skipped = self._skipped_in_a_row()
        self._clear()
        return report


def _finite(values: list[Tensor]) -> Tensor:
    return torch.stack(values).isfinite()
