"""One evaluation: pictures through the networks once, then all metrics, then the report."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch

from ..pictures.sources import Source
from ..runs.processes import OneProcess
from . import caveats
from .extract import Batches, Extracted, Interrupted, extract
from .material import Material
from .metrics.statistics import Provenance, load_statistics
from .pairs import PairSource
from .plan import BY_STATISTICS, METRICS, REAL, PairDistance, Pass, all_sources, passes_of
from .points import points
from .report import EvaluationReport, NetworkUse
from .request import Request
from .store import FeatureStore
from .usable import use_sources

Progress = Callable[[int, int, str], None]


@overload
def evaluate(
    request: Request,
    networks: Mapping[str, Any],
    *,
    store: str | Path | None = None,
    on_step: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> EvaluationReport: ...


@overload
def evaluate(
    request: Request,
    networks: Mapping[str, Any],
    *,
    store: str | Path | None = None,
    on_step: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    processes: OneProcess,
) -> EvaluationReport | None: ...


def evaluate(
    request: Request,
    networks: Mapping[str, Any],
    *,
    store: str | Path | None = None,
    on_step: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    processes: OneProcess | None = None,
) -> EvaluationReport | None:
    """Evaluate generated pictures.

    In several processes each computes a part of the features; the first one then reads them all
    from the store, in the order of one process, so the statistics are the same.

    Args:
        networks: by role: inception, clip (with `text` for the text metrics), dino, lpips
            (`distance`), face, aesthetic (`score`), and cmmd_clip, aesthetic_clip where another
            one than clip is wanted. Objects like `networks.FeatureNetwork`.
        store: folder that keeps the features, so that a stopped evaluation goes on; None: a
            temporary one.
        on_step: called with pictures done, of how many, and what is going on.
        cancelled: True stops the evaluation; or it raises.

    Returns:
        None in all processes but the first.

    Raises:
        Interrupted: stopped; the features so far are in the store.
        ValueError: bad input; says what and what to do.
    """
    processes = processes or OneProcess()
    if store is None and processes.count > 1:
        raise ValueError("Several processes need one store folder; give one that all can reach.")
    sources = all_sources(request.metrics, request.generated, request.real, request.seed)
    passes = passes_of(request.metrics, networks, sources, request.statistics is not None)
    _check(request, networks)
    for source in sources.values():
        if isinstance(source, PairSource):
            source.smallest = getattr(networks["lpips"], "smallest", 1)
    if request.save_statistics and ("inception", REAL) not in passes:
        passes.append(("inception", REAL))
    job = _Job(request, networks, sources, passes, on_step, cancelled or (lambda: False))
    with _folder(store) as folder, torch.inference_mode():
        if processes.count > 1:
            _share(job, folder, processes)
            if processes.rank:
                return None
        return _report(job, job.extract(folder))


@dataclass
class _Job:
    request: Request
    networks: Mapping[str, Any]
    sources: Mapping[str, Source]
    passes: Sequence[Pass]
    on_step: Progress | None
    cancelled: Callable[[], bool]

    def extract(self, folder: Path, rank: int = 0, count: int = 1) -> dict[Pass, Extracted]:
        """Features of all passes."""
        batches = Batches(self.request.batch_size, self.request.device, rank, count)
        total = sum(len(self.sources[source]) for _, source in self.passes)
        done, out, stores = 0, {}, {}
        for role, source in self.passes:
            network = self.networks[role]
            network = PairDistance(network) if role == "lpips" else network
            if role not in stores:
                stores[role] = FeatureStore(folder, network, list(network.outputs))

            def tell(pictures: int, what: str = f"{network.name}: {source}") -> None:
                nonlocal done
                done += pictures
                if self.on_step:
                    self.on_step(min(done * count, total), total, what)

            try:
                out[role, source] = extract(
                    self.sources[source],
                    network,
                    stores[role],
                    batches,
                    on_pictures=tell,
                    cancelled=self.cancelled,
                )
            except Interrupted:
                raise Interrupted(min(done * count, total), total) from None
        return out


def _check(request: Request, networks: Mapping[str, Any]) -> None:
    """What would else be found out after hours of work.

    Raises:
        ValueError: no prompts, no text encoder, or statistics of something else.
    """
    of_sets = [name for name in request.metrics if not METRICS[name].per_image]
    if of_sets and len(request.generated.pictures) < 2:
        raise ValueError(
            f"Got {len(request.generated.pictures)} usable generated pictures for "
            f"{', '.join(of_sets)}; expected at least 2. Add pictures, or leave these metrics out."
        )
    reading = [name for name in request.metrics if METRICS[name].prompts]
    if reading and not hasattr(networks["clip"], "text"):
        raise ValueError(
            f"{reading[0]} reads prompts, which {networks['clip'].name} cannot. Give the file of a "
            "whole CLIP model, or leave the metric out."
        )
    if reading and not any(entry.prompt.strip() for entry in request.generated.entries):
        raise ValueError(
            f"{reading[0]} needs prompts, and no picture has one. Give one for all, a text file "
            "beside each picture, or a manifest."
        )
    if request.statistics and set(request.metrics) & set(BY_STATISTICS):
        network = networks["inception"]
        expected = Provenance(network.name, network.weights, network.resize, "pool")
        found = load_statistics(request.statistics, expected).gaussian.dim
        if found != network.outputs["pool"]:
            raise ValueError(
                f"{Path(request.statistics).name} holds statistics of {found} values per picture; "
                f"{network.name} gives {network.outputs['pool']}. Compute the statistics again "
                "with this network."
            )


def _share(job: _Job, folder: Path, processes: OneProcess) -> None:
    """Compute this process's part; afterwards all parts are in the store."""
    stopped = None
    try:
        job.extract(folder, processes.rank, processes.count)
    except Interrupted as error:
        stopped = error
    if processes.any(stopped is not None):  # this waits for the others
        raise stopped or Interrupted(0, 0)


@contextmanager
def _folder(store: str | Path | None) -> Iterator[Path]:
    if store is not None:
        yield Path(store)
        return
    # Windows keeps mapped files from being deleted until the process ends.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _report(job: _Job, features: dict[Pass, Extracted]) -> EvaluationReport:
    request, warnings = job.request, list(job.request.generated.notes)
    usable, uses = use_sources(request, job.sources, features, warnings)

    def check() -> None:
        if job.cancelled():
            total = sum(len(job.sources[source]) for _, source in job.passes)
            raise Interrupted(total, total)

    material = Material(request, job.networks, features, usable, warnings, check)
    found, rows = points(material)
    warnings += caveats.unequal_points([point.n for point in found])
    return EvaluationReport(
        found, rows, _networks(job), uses, _settings(request), list(dict.fromkeys(warnings))
    )


def _networks(job: _Job) -> list[NetworkUse]:
    roles = dict.fromkeys(role for role, _ in job.passes)
    heads = [head for name in job.request.metrics for head in METRICS[name].heads]
    return [
        NetworkUse(role, network.name, network.weights, getattr(network, "resize", "none"))
        for role in dict.fromkeys([*roles, *heads])
        for network in [job.networks[role]]
    ]


def _settings(request: Request) -> dict[str, Any]:
    names = ("batch_size", "mixed_sizes", "seed", "splits", "fid_minimum", "confidence")
    return {
        "metrics": list(request.metrics),
        "statistics": Path(request.statistics).name if request.statistics else None,
        **{name: getattr(request, name) for name in names},
        "torch": str(torch.__version__),
    }
