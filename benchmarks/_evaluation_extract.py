"""Pictures per second from files to features in the store, against the network's plain calls."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from ..evaluation.extract import Batches, extract
from ..evaluation.networks.precision import full_precision
from ..evaluation.resize import resize_for_inception
from ..evaluation.store import FeatureStore
from ._evaluation_pictures import Repeated, draw_pictures, random_inception
from ._timing import Quiet, Summary, interleaved, ratios, summarise

NETWORK, CONTROL = "network on decoded pictures", "network, control"
BARE, EXTRACT = "network without its resize", "files to store"
FILES = 64


class ExtractResult(NamedTuple):
    """One line of the table: pictures per second, and its ratio to the network's plain calls."""

    variant: str
    per_second: Summary
    ratio: Summary


def measure(
    folder: Path, device: torch.device, count: int, batch_size: int, rounds: int, quiet: Quiet
) -> list[ExtractResult]:
    """Each variant on `count` pictures of 512 px, in batches of `batch_size`.

    The network's plain calls get decoded pictures, resize them as part of its protocol, and keep
    nothing. `files to store` also reads, decodes, checks and writes.
    """
    source = Repeated(draw_pictures(folder / "pictures", min(FILES, count)), count)
    network = random_inception(device)
    pixels = torch.stack([source.load(n).pixels for n in range(batch_size)]).to(device)
    ready = resize_for_inception(pixels, network.resize)
    fresh = (folder / f"store-{n}" for n in itertools.count())  # nothing is known from before
    batches = range(count // batch_size)

    def bare() -> None:
        with full_precision():
            for _ in batches:
                network.module(ready)

    def plain() -> None:
        for _ in batches:
            network(pixels)

    def files() -> None:
        store = FeatureStore(next(fresh), network, network.outputs)
        extract(source, network, store, Batches(batch_size, device))

    runs = {NETWORK: plain, CONTROL: plain, BARE: bare, EXTRACT: files}
    samples = interleaved(
        {name: _elapsed(run, device) for name, run in runs.items()}, rounds, quiet, "extraction"
    )
    rates = {name: [count / value for value in values] for name, values in samples.items()}
    return [
        ExtractResult(name, summarise(rates[name]), ratios(rates[name], rates[NETWORK]))
        for name in runs
    ]


def _elapsed(run: Callable[[], None], device: torch.device) -> Callable[[], float]:
    def timed() -> float:
        start = time.perf_counter()
        run()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - start

    return timed
