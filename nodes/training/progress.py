"""What a run shows in ComfyUI: progress, previews, remaining time, and its chart."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import comfy.model_management
import comfy.utils
from PIL import Image

from ...figures.line_chart import line_chart, smoothed
from ...runs.history import VALIDATION
from ...runs.metrics import curves
from ...training.loop import Report
from ...training.run import Result, Watcher, where_it_begins
from ...training.validation import ValidationReport
from .events import TrainingEvents

log = logging.getLogger("MultiIPAdapter")


def draw_chart(result: Result) -> Image.Image:
    """Loss and validation of a run."""
    lines = curves(result.metrics)
    named = [("loss", lines["loss"]), ("loss, smoothed", smoothed(lines["loss"]))]
    named += [(f"validation, {name}", lines[name]) for name in VALIDATION]
    return line_chart(f"Training, {result.step} steps", named)


class TrainingBar:
    """Progress in ComfyUI: steps; in the log and in `events` also the loss, previews and, once it
    is known, the remaining time."""

    def __init__(self, steps: int, events: TrainingEvents | None = None):
        self.steps = steps
        self.events = events or TrainingEvents("", None, steps)
        self.bar = comfy.utils.ProgressBar(steps)
        self.done = self.validated = 0
        self.began: tuple[float, int] | None = None

    def watcher(self) -> Watcher:
        """To be told of the run; a cancel in ComfyUI stops it."""
        return Watcher(
            on_start=self.start,
            on_step=self.step,
            on_validation=self.validation,
            validating=self.validating,
            should_stop=comfy.model_management.processing_interrupted,
            stops=(comfy.model_management.InterruptProcessingException,),
            on_cache=self.cache,
            on_preview=self.preview,
        )

    def start(self, step: int) -> None:
        log.info(where_it_begins(step, self.steps))
        self.events.tell({"begins": True}, phase="training", step=step)
        self.done = step

    @contextmanager
    def validating(self, step: int) -> Iterator[None]:
        """Around a validation and its previews."""
        self.events.tell(phase="validating", step=step)
        yield
        self.events.tell(phase="training")

    def validation(self, report: ValidationReport, _: object) -> None:
        log.info("%s", report)
        self.validated = report.step
        means = {name: getattr(report, name).mean for name in VALIDATION}
        self.events.tell({"validation": {"step": report.step} | means})

    def step(self, report: Report) -> None:
        text = f"step {report.step} of {self.steps}, loss {report.loss:.4f}"
        text += f", {report.samples_per_second:.1f} samples/s"
        left = self._seconds_left(report.step)
        if left is not None:
            text += f", {timedelta(seconds=round(left))} left"
        log.info(text)
        news = {"losses": report.losses, "learning_rate": report.learning_rate}
        speed = report.samples_per_second
        self.events.tell(news, step=report.step, seconds_left=left, samples_per_second=speed)
        self.done = report.step
        self.bar.update_absolute(report.step, self.steps)

    def _seconds_left(self, step: int) -> float | None:
        """By the speed since the first report."""
        now = time.monotonic()
        if self.began is None:
            self.began = (now, step)
        done = step - self.began[1]
        return (self.steps - step) * (now - self.began[0]) / done if done else None

    def cache(self, done: int, count: int) -> None:
        self.events.tell(phase="encoding", done=done, count=count)
        self.bar.update_absolute(done, count)

    def preview(self, _: Image.Image) -> None:
        """The chart reads the sheet's file; a picture with the progress would be shown twice."""
        self.bar.update_absolute(self.done, self.steps)
        self.events.tell({"preview": self.validated})
