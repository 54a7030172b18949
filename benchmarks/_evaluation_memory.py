"""A large evaluation in a process of its own: prints as JSON the most memory that it takes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from ..evaluation.generated import Entry, GeneratedSet
from ..evaluation.networks.inception import CLASSES, POOL, Inception
from ..evaluation.request import Request
from ..evaluation.run import evaluate
from ..pictures.sources import Picture
from ._evaluation_pictures import Repeated, random_inception

BATCH = 32
REAL_BATCHES = 2


class MostlyCheap:
    """FID-Inception for a few batches, for its memory; then noise of the same shape, for time."""

    def __init__(self, network: Inception):
        self.name, self.weights, self.resize = network.name, network.weights, network.resize
        self.outputs = network.outputs
        self._network, self._left = network, REAL_BATCHES
        self._random = torch.Generator().manual_seed(0)

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        self._left -= 1
        if self._left >= 0:
            return self._network(pixels)
        rows = len(pixels)
        pool = torch.randn(rows, POOL, generator=self._random)
        return {"pool": pool, "logits": torch.randn(rows, CLASSES, generator=self._random)}


class MostlySmall(Repeated):
    """The files for as many pictures as the network really sees; then tiny ones, for time."""

    def __init__(self, paths: list[Path], count: int, label: str):
        super().__init__(paths, count)
        self._label = label

    def load(self, number: int) -> Picture:
        if number < REAL_BATCHES * BATCH:
            return super().load(number)
        return Picture(torch.zeros(3, 8, 8, dtype=torch.uint8), "PNG")

    def fingerprint(self, number: int) -> str:
        return f"{self._label} {number}"


def main(folder: str, count: str) -> None:
    """FID, then Inception Score and KID, of two different sets of `count` pictures each."""
    from ._load_memory import peak_memory

    peaks = {"start": peak_memory()}
    paths = sorted((Path(folder) / "pictures").glob("*.png"))
    made, real = (MostlySmall(paths, int(count), label) for label in ("generated", "real"))
    network = MostlyCheap(random_inception(torch.device("cpu")))

    def on_step(done: int, total: int, what: str) -> None:
        if done == total and "extracted" not in peaks:
            peaks["extracted"] = peak_memory()

    for metrics, step in ((["fid"], "fid"), (["fid", "is", "kid"], "all")):
        generated = GeneratedSet(made, [Entry()] * int(count))
        request = Request(metrics, generated, real, batch_size=BATCH)
        store = Path(folder) / f"memory-{count}"
        evaluate(request, {"inception": network}, store=store, on_step=on_step)
        peaks[step] = peak_memory()
    print(json.dumps(peaks))


if __name__ == "__main__":
    with torch.inference_mode():
        main(*sys.argv[1:])
