"""A whole run in its folder: initial adapter, training, validation, and the adapter files.

Folder: state-<step>.safetensors (to resume), adapter.safetensors (the averaged weights),
best.safetensors (by validation), metrics.jsonl, config.json.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..models.adapter import MultiIPAdapter
from ..models.checkpoint import save_adapter
from .backbone import Backbone
from .batch import FeatureSource
from .config import TrainingConfig
from .initial import initial_adapter
from .loop import Report, Trainer
from .metrics import MetricsFile, read_metrics
from .processes import OneProcess
from .state import disk_errors
from .validation import ValidationReport, Validator


@dataclass(frozen=True)
class Watcher:
    """Told about a run while it goes on; all optional."""

    on_step: Callable[[Report], None] = lambda report: None
    on_validation: Callable[[ValidationReport, MultiIPAdapter], None] = lambda report, adapter: None
    should_stop: Callable[[], bool] = lambda: False
    stops: tuple[type[BaseException], ...] = ()  # raised in the middle of a step; mean "stop" too


@dataclass(frozen=True)
class Result:
    """The trained adapter, whether the run reached its end, and everything in metrics.jsonl."""

    adapter: MultiIPAdapter
    finished: bool
    step: int
    metrics: list[dict[str, Any]]


class Run:
    """A run that can be started, cancelled and resumed.

    Args:
        widths: of the image encoder's features, by name.
        identity: values that identify data and models, checked on resuming.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainingConfig,
        backbone: Backbone,
        training: FeatureSource,
        held_out: FeatureSource | None,
        widths: dict[str, int],
        identity: Mapping[str, Any],
        processes: OneProcess | None = None,
    ):
        self.folder, self.config = folder, config
        self.processes = processes or OneProcess()
        folder.mkdir(parents=True, exist_ok=True)
        adapter = initial_adapter(config, backbone.text_weights(), widths)
        self.trainer = Trainer(
            adapter, backbone, training, config, folder, identity, self.processes
        )
        self.validator = None
        if held_out is not None and config.validate_every:
            self.validator = Validator(backbone, held_out, config)

    def go(self, watcher: Watcher | None = None, resume: bool = True) -> Result:
        """Train from the newest state in the folder, or from the start.

        Raises:
            ValueError: `resume` is False and the folder holds a run.
        """
        watcher = watcher or Watcher()
        self._begin(resume)
        metrics = MetricsFile(self.folder, self.trainer.progress.step) if self._first else None

        def on_step(report: Report) -> None:
            if metrics is not None:
                metrics.step(report)
            watcher.on_step(report)

        def on_validate(step: int) -> None:
            if metrics is not None:
                self._validate(step, metrics, watcher)
            self.processes.wait()

        finished = False
        try:
            if self.validator and self.trainer.progress.step == 0:
                on_validate(0)
            finished = self.trainer.train(
                on_step, on_validate if self.validator else None, watcher.should_stop
            )
        except watcher.stops:
            pass  # the trainer has kept what there is
        finally:
            if self._first and self.trainer.progress.step and self.trainer.intact:
                self._save("adapter.safetensors")
        return Result(
            self.result_adapter(),
            finished,
            self.trainer.progress.step,
            read_metrics(self.folder / "metrics.jsonl"),
        )

    @property
    def _first(self) -> bool:
        return self.processes.rank == 0

    def result_adapter(self) -> MultiIPAdapter:
        """The averaged adapter, with a summary of the run in its config."""
        adapter = self.trainer.averaged()
        summary = {"steps": self.trainer.progress.step, "settings": self.config.to_dict()}
        summary["settings"].pop("start_from")  # a path of this machine
        adapter.config = dataclasses.replace(adapter.config, training=summary)
        return adapter

    def _save(self, name: str) -> None:
        with disk_errors(name):
            save_adapter(self.result_adapter(), self.folder / name)

    def _begin(self, resume: bool) -> None:
        resumed = resume and self.trainer.resume()
        if not resumed and not resume and any(self.folder.glob("state-*.safetensors")):
            raise ValueError(
                f"The folder {self.folder.name} holds a run already. Resume it, or choose another "
                "name."
            )
        if self._first:
            for left in self.folder.glob(".*.tmp"):  # by a process that was killed while writing
                left.unlink(missing_ok=True)
            text = json.dumps(self.config.to_dict(), indent=2)
            (self.folder / "config.json").write_text(text, encoding="utf-8")

    def _validate(self, step: int, metrics: MetricsFile, watcher: Watcher) -> None:
        adapter = self.trainer.averaged() if step else self.trainer.adapter
        device = self.trainer.backbone.device
        report = self.validator(adapter.to(device), step, watcher.should_stop)
        if report is None:
            return
        metrics.validation(report)
        if report.matched.mean < self.trainer.progress.best:
            self.trainer.progress.best = report.matched.mean
            if step:
                self._save("best.safetensors")
        watcher.on_validation(report, adapter)
