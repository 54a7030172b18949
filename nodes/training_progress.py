"""What a run shows in ComfyUI: progress, previews, remaining time, and its chart."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta

import comfy.utils
import numpy as np
import torch
from PIL import Image

from ..training.chart import line_chart, smoothed
from ..training.loop import Report
from ..training.metrics import curves
from ..training.run import Result, where_it_begins
from ..training.validation import ValidationReport

log = logging.getLogger("MultiIPAdapter")


def draw_chart(result: Result) -> Image.Image:
    """Loss and validation of a run."""
    lines = curves(result.metrics)
    named = [("loss", lines["loss"]), ("loss, smoothed", smoothed(lines["loss"]))]
    named += [(f"validation, {name}", lines[name]) for name in ("matched", "none", "shuffled")]
    return line_chart(f"Training, {result.step} steps", named)


class TrainingBar:
    """Progress in ComfyUI: steps, and the newest preview; on the node (by `show`) and in the log
    also the loss and the remaining time, once it is known."""

    def __init__(self, steps: int, show: Callable[[str], None] = lambda text: None):
        self.steps, self.show = steps, show
        self.bar = comfy.utils.ProgressBar(steps)
        self.done = 0
        self.covered = False
        self.began: tuple[float, int] | None = None

    def start(self, step: int) -> None:
        text = where_it_begins(step, self.steps)
        log.info(text)
        self.show(text)
        self.done = step

    def validation(self, report: ValidationReport, _: object) -> None:
        log.info("%s", report)

    def step(self, report: Report) -> None:
        now = time.monotonic()
        if self.began is None:
            self.began = (now, report.step)
        text = f"step {report.step} of {self.steps}, loss {report.loss:.4f}"
        text += f", {report.samples_per_second:.1f} samples/s"
        if done := report.step - self.began[1]:
            left = (self.steps - report.step) * (now - self.began[0]) / done
            text += f", {timedelta(seconds=round(left))} left"
        log.info(text)
        self.show(text)
        self.done = report.step
        self.bar.update_absolute(report.step, self.steps)

    def cache(self, done: int, count: int) -> None:
        self.bar.update_absolute(done, count)

    def preview(self, sheet: Image.Image) -> None:
        self.bar.update_absolute(self.done, self.steps, ("JPEG", sheet, 768))
        self.covered = True

    def result(self, chart: Image.Image) -> None:
        """The front end keeps the last preview before the node's result."""
        if self.covered:
            self.preview(chart)


def to_image(picture: Image.Image) -> torch.Tensor:
    """[1, H, W, 3] in 0..1."""
    return torch.from_numpy(np.asarray(picture.convert("RGB")).copy())[None].float() / 255
