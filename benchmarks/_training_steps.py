"""Interleaved timing of training steps: cached, encoded online, and the plain loop.

Ways are compared by what they cost: wall time on a GPU; on a CPU the processor time of all threads,
because a second core would hide the encoders, which a GPU has to run beside the UNet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..diffusion.backbone import Backbone
from ..diffusion.objective import Noise, draw_noise
from ..models.projection import HIDDEN
from ..nodes.binding.backbone import training_backbone
from ..nodes.training.progress import TrainingBar
from ..pictures.load import load_picture
from ..runs.metrics import MetricsFile
from ..runs.streams import step_noise
from ..training.batch import FeatureSource, collate
from ..training.config import TrainingConfig
from ..training.initial import initial_adapter
from ..training.loop import Report, Trainer
from ._timing import Quiet, Summary, interleaved, ratios, summarise
from ._training_plain import PlainLoop, picture_numbers
from ._training_world import FIT, FixedReferences, World

CACHED, ONLINE, PLAIN = "cached", "online", "plain loop"
AGAIN, TOLD = "cached, again", "cached, progress told"  # `again` says what chance alone does
FIXED, UNIFORM = "4", "1 to 4, uniform"
_WAYS = (CACHED, AGAIN, TOLD, ONLINE, PLAIN)


class Line(NamedTuple):
    """One way of training: seconds per step, and what other ways cost over what it costs.

    `wall` is by the clock; `waited` the share of it spent waiting for data, None where it is not
    known.
    """

    references: str
    way: str
    wall: Summary
    cost: Summary
    over_plain: Summary
    over_online: Summary
    waited: Summary | None


class Telling(NamedTuple):
    """Seconds to write one report's JSON line and show it, and its share of `log_every` steps."""

    seconds: Summary
    share: float
    log_every: int


class Check(NamedTuple):
    """Losses of the same rows, noise and initial adapter, with four references each.

    `ours` is the engine with `concat`; `none` the engine without references, so that agreement
    means something.
    """

    ours: float
    plain: float
    none: float


class Arithmetic(NamedTuple):
    """Operations of a step with four references, in TFLOP: the engine cached, the plain loop."""

    cached: float
    plain: float


class Results(NamedTuple):
    """Everything that is measured in one process."""

    lines: list[Line]
    telling: Telling
    check: Check
    arithmetic: Arithmetic


class Clocks:
    """Wall time and cost of the same stretch of work, in seconds."""

    def __init__(self, device: torch.device):
        self._cost = time.process_time if device.type == "cpu" else time.perf_counter
        self.start()

    def start(self) -> None:
        """From now on."""
        self._began = (time.perf_counter(), self._cost())

    def read(self) -> tuple[float, float]:
        """Wall time, cost."""
        wall, cost = self._began
        return time.perf_counter() - wall, self._cost() - cost


class Engine:
    """A run of our engine; each call trains on for `steps` steps and returns the cost of one."""

    def __init__(self, trainer: Trainer, steps: int, told: Callable[[Report], None] | None = None):
        self.trainer, self.steps, self.told = trainer, steps, told
        self.windows = 0
        self.walls: list[float] = []
        self.waited: list[float] = []

    def __call__(self) -> float:
        clocks = Clocks(self.trainer.backbone.device)
        times: list[tuple[float, float]] = []

        def on_step(report: Report) -> None:
            # The report has read the loss, so the device is done.
            times.append(clocks.read())
            self.waited.append(report.waited)
            clocks.start()
            if self.told:
                self.told(report)

        # Reports come after every `steps` steps. The step before the first of them fills the
        # queue of batches; the second report is about steps with full queues only.
        self.windows += 1
        first = self.windows * self.steps
        self.trainer.progress.step = first - 1
        self.trainer.config = replace(
            self.trainer.config, steps=first + self.steps, log_every=self.steps
        )
        self.trainer.train(on_step)
        del self.waited[-2]
        wall, cost = times[-1]
        self.walls.append(wall / self.steps)
        return cost / self.steps


class Plain:
    """The same for the plain loop."""

    def __init__(self, loop: PlainLoop, steps: int):
        self.loop, self.steps = loop, steps
        self.walls: list[float] = []

    def __call__(self) -> float:
        self.loop.step()
        clocks = Clocks(self.loop.device)
        for _ in range(self.steps):
            self.loop.step()  # reads the loss, so the device is done
        wall, cost = clocks.read()
        self.walls.append(wall / self.steps)
        return cost / self.steps


class Timed:
    """Durations of what a report sets off: its line in metrics.jsonl, ComfyUI's progress."""

    def __init__(self, folder: Path):
        self.metrics, self.bar = MetricsFile(folder), TrainingBar(1_000_000)
        self.seconds: list[float] = []

    def __call__(self, report: Report) -> None:
        start = time.perf_counter()
        self.metrics.step(asdict(report))
        self.bar.step(report)
        self.seconds.append(time.perf_counter() - start)


@contextmanager
def backbone_of(world: World, config: TrainingConfig) -> Iterator[Backbone]:
    """The world's models, bound to the engine."""
    models = world.models
    with (
        torch.inference_mode(False),
        training_backbone(
            models.model, models.clip, models.clip_vision, config, world.scale.pixels
        ) as backbone,
    ):
        yield backbone


def make_trainer(
    world: World, backbone: Backbone, source: FeatureSource, config: TrainingConfig, fixed: bool
) -> Trainer:
    """A fresh run; `fixed`: with four references in every row."""
    widths = {HIDDEN: backbone.null_features[HIDDEN].shape[-1]}
    adapter = initial_adapter(config, backbone.text_weights(), widths)
    trainer = Trainer(adapter, backbone, source, config)
    if fixed:
        trainer.sampler = FixedReferences(trainer.sampler, world.index)
    return trainer


def measure(world: World, rounds: int, steps: int, quiet: Quiet) -> Results:
    """All ways, one after the other in every round, `steps` steps each."""
    config = world.scale.settings()
    with backbone_of(world, config) as backbone:
        trainers = {
            (count, way): make_trainer(world, backbone, source, config, count == FIXED)
            for count in (FIXED, UNIFORM)
            for way, source in ((CACHED, world.cached()), (ONLINE, world.online()))
        }
        loops = {
            count: PlainLoop(world, config, trainers[count, CACHED].sampler)
            for count in (FIXED, UNIFORM)
        }
        try:
            check = _check(world, backbone, loops[FIXED], config)
            arithmetic = _count(world, trainers[FIXED, CACHED], loops[FIXED])
            told = Timed(world.root)
            runs: dict = {key: Engine(trainer, steps) for key, trainer in trainers.items()}
            for way, teller in ((AGAIN, None), (TOLD, told)):
                twin = make_trainer(world, backbone, world.cached(), config, True)
                runs[FIXED, way] = Engine(twin, steps, teller)
            runs |= {(count, PLAIN): Plain(loop, steps) for count, loop in loops.items()}
            samples = interleaved(runs, rounds, quiet, "training")
        finally:
            for loop in loops.values():
                loop.close()
    lines = [_line(*key, samples, runs[key]) for key in sorted(samples, key=_order)]
    telling = _telling(told, runs[FIXED, CACHED].walls[1:])
    return Results(lines, telling, check, arithmetic)


def _order(key: tuple[str, str]) -> tuple[bool, int]:
    return key[0] != FIXED, _WAYS.index(key[1])


def _line(references: str, way: str, samples: dict, run: Engine | Plain) -> Line:
    cost = samples[references, way]
    return Line(
        references,
        way,
        summarise(run.walls[1:]),  # without the round that does not count
        summarise(cost),
        ratios(samples[references, PLAIN], cost),
        ratios(samples[references, ONLINE], cost),
        summarise(run.waited[1:]) if isinstance(run, Engine) else None,
    )


def _telling(told: Timed, walls: list[float]) -> Telling:
    seconds, step, every = summarise(told.seconds), summarise(walls), TrainingConfig().log_every
    return Telling(seconds, seconds.median / (every * step.median), every)


def _check(world: World, backbone: Backbone, loop: PlainLoop, config: TrainingConfig) -> Check:
    trainer = make_trainer(
        world, backbone, world.online(), replace(config, aggregation="concat"), True
    )
    rows = [replace(row, drop_image=False, drop_text=False) for row in loop.sampler.batch(0)]
    pixels = [
        load_picture(world.index, n, world.scale.pixels, FIT)[0] for n in picture_numbers(rows)
    ]
    batch = collate(trainer.source, rows, (HIDDEN,), 1).to(backbone.device)
    drawn = draw_noise(
        step_noise(config.seed, 0), tuple(batch.latents.shape), len(backbone.alphas_cumprod)
    )
    noise = Noise(*(x.to(backbone.device) for x in drawn))
    text = backbone.encode_text(batch.captions)
    with torch.no_grad():
        ours, plain = trainer.loss(batch, noise, text), loop.loss(rows, pixels, 0)
        trainer.module = lambda features, present: []
        none = trainer.loss(batch, noise, text)
    return Check(ours.item(), plain.item(), none.item())


def _count(world: World, trainer: Trainer, loop: PlainLoop) -> Arithmetic:
    rows = loop.sampler.batch(0)
    device = trainer.backbone.device
    batch = collate(trainer.source, rows, (HIDDEN,), 1).to(device)
    drawn = draw_noise(step_noise(trainer.config.seed, 0), tuple(batch.latents.shape), 1000)
    noise = Noise(*(x.to(device) for x in drawn))
    text = trainer.backbone.encode_text(batch.captions)
    with FlopCounterMode(display=False) as cached:
        trainer.loss(batch, noise, text).backward()
    trainer.optimizer.zero_grad()
    with FlopCounterMode(display=False) as plain:
        loop.step()
    return Arithmetic(cached.get_total_flops() / 1e12, plain.get_total_flops() / 1e12)
