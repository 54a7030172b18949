"""Interleaved timing: every variant once per round, in a new order each round, then medians.

A sample during which other processes were busy is taken again.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import psutil

OTHERS = 0.1  # cores that other processes may use while a sample is taken
TICKS = 0.05  # seconds; the clocks of processes are coarse
PAUSE = 0.5  # seconds, between looks at a busy machine

Name = TypeVar("Name", bound=Hashable)


class Summary(NamedTuple):
    """Median and quartiles, in the unit of what was summarised."""

    median: float
    low: float
    high: float


def summarise(values: Sequence[float]) -> Summary:
    """Median and quartiles of at least two values."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Summary(median, low, high)


def ratios(values: Sequence[float], baseline: Sequence[float]) -> Summary:
    """Each value over the baseline of the same round, so that slow phases of the machine cancel."""
    return summarise([a / b for a, b in zip(values, baseline, strict=True)])


def per_round(groups: Sequence[Sequence[float]]) -> list[float]:
    """Median of several series, round by round: a steadier baseline than one of them."""
    return [statistics.median(values) for values in zip(*groups, strict=True)]


def seconds(run: Callable[[], Any]) -> float:
    """Duration of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def busy_seconds() -> tuple[float, float]:
    """CPU seconds used so far by all processes, and by this one."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0) + getattr(times, "steal", 0.0)
    guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # in user and nice
    own = psutil.Process().cpu_times()
    return sum(times) - idle - guest, own.user + own.system


class Quiet:
    """Takes samples while other processes rest, as long as `patience` seconds of waiting last.

    Attributes:
        taken: number of samples.
        disturbed: how many of them had to be taken while others were busy.
    """

    def __init__(self, patience: float):
        self.patience = patience
        self.taken = self.disturbed = 0

    def sample(self, run: Callable[[], float]) -> float:
        """The value of the first undisturbed run, or of the last one when patience is over."""
        self.taken += 1
        while True:
            value, busy = self._observe(run)
            if not busy:
                return value
            if self.patience <= 0:
                self.disturbed += 1
                return value
            self._wait()

    def _wait(self) -> None:
        while self.patience > 0:
            start = time.perf_counter()
            _, busy = self._observe(lambda: time.sleep(PAUSE))
            self.patience -= time.perf_counter() - start
            if not busy:
                return

    def _observe(self, run: Callable[[], Any]) -> tuple[Any, bool]:
        everything, own = busy_seconds()
        start = time.perf_counter()
        value = run()
        elapsed = time.perf_counter() - start
        everything, own = (b - a for a, b in zip((everything, own), busy_seconds(), strict=True))
        return value, everything - own > OTHERS * elapsed + TICKS


def interleaved(
    variants: Mapping[Name, Callable[[], float]],
    rounds: int,
    quiet: Quiet,
    label: str = "",
) -> dict[Name, list[float]]:
    """Samples in seconds of every variant, after one round that does not count.

    A variant measures itself and returns seconds.
    """
    samples: dict[Name, list[float]] = {name: [] for name in variants}
    order = random.Random(0)
    for run in variants.values():
        run()
    for number in range(rounds):
        names = list(variants)
        order.shuffle(names)
        for name in names:
            samples[name].append(quiet.sample(variants[name]))
        if label:
            print(f"{label}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return samples
