"""What a run shows in ComfyUI: progress, previews, remaining time, and its chart."""

from __future__ import annotations

import logging
import time

import comfy.utils
import numpy as np
import torch
from PIL import Image

from ..training.chart import line_chart, smoothed
from ..training.metrics import curves
from ..training.run import Result

log = logging.getLogger("MultiIPAdapter")


def draw_chart(result: Result) -> Image.Image:
    """Loss and validation of a run."""
    lines = curves(result.metrics)
    named = [("loss", lines["loss"]), ("loss, smoothed", smoothed(lines["loss"]))]
    named += [(f"validation, {name}", lines[name]) for name in ("matched", "none", "shuffled")]
    return line_chart(f"Training, {result.step} steps", named)


class TrainingBar:
    """Progress in ComfyUI: steps, and the newest preview; loss and remaining time in the log."""

    def __init__(self, steps: int):
        self.steps = steps
        self.bar = comfy.utils.ProgressBar(steps)
        self.done = 0
        self.began: tuple[float, int] | None = None

    def step(self, report) -> None:
        now = time.monotonic()
        if self.began is None:
            self.began = (now, report.step)
        seconds, done = now - self.began[0], report.step - self.began[1]
        left = (self.steps - report.step) * seconds / done if done else 0.0
        log.info(
            "step %d of %d, loss %.4f, %.1f samples/s, %d s left",
            report.step,
            self.steps,
            report.loss,
            report.samples_per_second,
            left,
        )
        self.done = report.step
        self.bar.update_absolute(report.step, self.steps)

    def cache(self, done: int, count: int) -> None:
        self.bar.update_absolute(done, count)

    def preview(self, sheet: Image.Image) -> None:
        self.bar.update_absolute(self.done, self.steps, ("JPEG", sheet, 768))


def to_image(picture: Image.Image) -> torch.Tensor:
    """[1, H, W, 3] in 0..1."""
    return torch.from_numpy(np.asarray(picture.convert("RGB")).copy())[None].float() / 255
