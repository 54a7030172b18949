"""A whole run in its folder: initial adapter, training, validation, and the adapter files.

Folder: state-<step>.safetensors (to resume), adapter.safetensors (the averaged weights),
best.safetensors (by validation), metrics.jsonl, config.json, run.lock.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from PIL import Image

from ..diffusion.backbone import Backbone
from ..files.atomic import atomically
from ..files.lock import take_lock
from ..models.adapter import MultiIPAdapter
from ..models.checkpoint import save_adapter
from ..runs import streams
from ..runs.metrics import MetricsFile, read_metrics
from ..runs.processes import OneProcess
from ..runs.state import disk_errors
from .batch import FeatureSource, PictureSource
from .checks import check_new
from .config import TrainingConfig
from .encoding import Encoders
from .initial import initial_adapter, made_settings
from .loop import Report, Trainer
from .validation import ValidationReport, Validator

log = logging.getLogger("MultiIPAdapter")

ADAPTER = "adapter.safetensors"

S = TypeVar("S", bound=FeatureSource, covariant=True)

_LONG_WARMUP = (
    "Got warmup = %d in a run of %d steps: the learning rate stays below what you set. Set warmup "
    "to about a tenth of the steps."
)


@dataclass(frozen=True)
class Watcher:
    """Told about a run while it goes on; all optional. `on_cache` gets how many pictures are
    encoded, of how many; `on_start` the step that the run goes on from; `validating` makes a
    context around each validation from its step."""

    on_step: Callable[[Report], None] = lambda report: None
    on_validation: Callable[[ValidationReport, MultiIPAdapter], None] = lambda report, adapter: None
    should_stop: Callable[[], bool] = lambda: False
    stops: tuple[type[BaseException], ...] = ()  # raised in the middle of a step; mean "stop" too
    on_start: Callable[[int], None] = lambda step: None
    validating: Callable[[int], AbstractContextManager[None]] = lambda step: nullcontext()
    on_cache: Callable[[int, int], None] = lambda done, count: None
    on_preview: Callable[[Image.Image], None] = lambda sheet: None


def where_it_begins(step: int, steps: int) -> str:
    """For the user: a new run, one that goes on, or one that has nothing left to do."""
    if step >= steps:
        return f"finished already, at step {step}; raise steps to go on"
    return f"resumed from step {step} of {steps}" if step else f"new run of {steps} steps"


def split(
    source: PictureSource, held_out: float, seed: int
) -> tuple[PictureSource, PictureSource | None]:
    """For training, and for validation, which compares identities and so needs two of them.

    Args:
        held_out: share of the identities with two or more pictures.
    """
    if not held_out:
        return source, None
    usable = int((source.index.counts() >= 2).sum())
    count = max(2, round(held_out * usable))
    if usable - count < 2:
        log.warning(
            "Got %d identities with two or more pictures; all are used for training, and none is "
            "left to validate with.",
            usable,
        )
        return source, None
    training, validation = source.index.split(count, streams.numbers(seed, streams.SPLIT))
    return source.of(training), source.of(validation)


@dataclass(frozen=True)
class Result:
    """The trained adapter, whether the run reached its end, and everything in metrics.jsonl."""

    adapter: MultiIPAdapter
    finished: bool
    step: int
    metrics: list[dict[str, Any]]


@dataclass(frozen=True)
class MadeFrom(Generic[S]):
    """What a run is made from, besides its settings.

    Attributes:
        training: pictures to learn from.
        held_out: pictures to validate with; None: no validation.
        encoders: what read them.
        fingerprint: values of data and models, checked on resuming.
        job: further settings to keep in config.json, for whoever reads it.
    """

    training: S
    held_out: S | None
    encoders: Encoders
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    job: Mapping[str, Any] = field(default_factory=dict)


class Run:
    """A run that can be started, cancelled and resumed."""

    def __init__(
        self,
        folder: Path,
        config: TrainingConfig,
        backbone: Backbone,
        made_from: MadeFrom[FeatureSource],
        processes: OneProcess | None = None,
    ):
        self.folder, self.config = folder, config
        self.job = made_from.job
        self.processes = processes or OneProcess()
        folder.mkdir(parents=True, exist_ok=True)
        encoders, held_out = made_from.encoders, made_from.held_out
        weights = backbone.text_weights()
        adapter = initial_adapter(config, weights, encoders.widths, encoders.recogniser)
        self.trainer = Trainer(
            adapter,
            backbone,
            made_from.training,
            config,
            folder,
            made_from.fingerprint,
            self.processes,
        )
        self.validator = None
        if held_out is not None and config.validate_every:
            self.validator = Validator(backbone, held_out, config)

    def go(self, watcher: Watcher | None = None, resume: bool = True) -> Result:
        """Train from the newest state in the folder, or from the start.

        Raises:
            ValueError: `resume` is False and the folder holds a run, or another process trains it.
            TrainingError: the loss is no number, or memory ran out; states on disk are intact.
            OSError: the disk is full; states on disk are intact.
        """
        with self._locked(), self.trainer.memory_errors():
            self._begin(resume)
            return self._go(watcher or Watcher())

    def _go(self, watcher: Watcher) -> Result:
        metrics = MetricsFile(self.folder, self.trainer.progress.step) if self._first else None

        def on_step(report: Report) -> None:
            if metrics is not None:
                metrics.step(dataclasses.asdict(report))
            watcher.on_step(report)

        def on_validate(step: int) -> None:
            if metrics is not None:
                with watcher.validating(step):
                    self._validate(step, metrics, watcher)
            self.processes.wait()

        if self._first:
            watcher.on_start(self.trainer.progress.step)
            if self.config.warmup > self.config.steps:
                log.warning(_LONG_WARMUP, self.config.warmup, self.config.steps)
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
            if metrics is not None:
                metrics.close()
            if self._first and self.trainer.progress.step and self.trainer.intact:
                self._save(ADAPTER)
        return Result(
            self.result_adapter(),
            finished,
            self.trainer.progress.step,
            read_metrics(self.folder / "metrics.jsonl"),
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """No other run in this folder meanwhile."""
        lock = take_lock(self.folder / "run.lock") if self._first else None
        try:
            if self.processes.any(self._first and lock is None):
                raise ValueError(
                    f"The run {self.folder.name} is being trained by another process. Wait for it, "
                    "stop it, or choose another name."
                )
            yield
        finally:
            if lock is not None:
                lock.close()

    @property
    def _first(self) -> bool:
        return self.processes.rank == 0

    def result_adapter(self) -> MultiIPAdapter:
        """The averaged adapter, with a summary of the run in its config."""
        adapter = self.trainer.averaged()
        settings = made_settings(self.config, adapter.config)
        settings.pop("start_from")  # a path of this machine
        summary = {"steps": self.trainer.progress.step, "settings": settings}
        adapter.config = dataclasses.replace(adapter.config, training=summary)
        return adapter

    def _save(self, name: str) -> None:
        path = self.folder / name
        with disk_errors(path):
            save_adapter(self.result_adapter(), path)

    def _begin(self, resume: bool) -> None:
        if resume:
            self.trainer.resume()
        else:
            check_new(self.folder)
        if self._first:
            for left in self.folder.glob(".*.tmp"):  # by a process that was killed while writing
                left.unlink(missing_ok=True)
            settings = made_settings(self.config, self.trainer.adapter.config)
            text = json.dumps({**self.job, **settings}, indent=2)
            path = self.folder / "config.json"
            with disk_errors(path), atomically(path) as temporary:
                temporary.write_text(text, encoding="utf-8")

    def _validate(self, step: int, metrics: MetricsFile, watcher: Watcher) -> None:
        adapter = self.trainer.averaged() if step else self.trainer.adapter
        device = self.trainer.backbone.device
        assert self.validator is not None
        report = self.validator(adapter.to(device), step, watcher.should_stop)
        if report is None:
            return
        metrics.validation(report.to_dict())
        if report.matched.mean < self.trainer.progress.best:
            self.trainer.progress.best = report.matched.mean
            if step:
                self._save("best.safetensors")
        watcher.on_validation(report, adapter)
