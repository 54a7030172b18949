"""Metrics of a whole set of generated pictures: FID and its kin, Inception Score, diversity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor

from . import caveats
from .extract import Extracted
from .material import Material
from .metrics.frechet import (
    FID_INFINITY_MINIMUM,
    Root,
    fid_infinity,
    frechet_distance,
    root_of,
    root_of_features,
)
from .metrics.inception_score import inception_score
from .metrics.kernels import cmmd, kid
from .metrics.manifold import PrecisionRecall, precision_recall
from .metrics.rows import Rows
from .metrics.statistics import (
    Gaussian,
    GaussianStatistics,
    Provenance,
    load_statistics,
    save_statistics,
)
from .plan import BY_STATISTICS, DIVERSITY_PAIRS, GENERATED, REAL, diversity_pairs
from .report import Value


def stored_gaussian(extracted: Extracted, numbers: Sequence[int]) -> Gaussian:
    """Statistics of pictures whose features stay on disk."""
    statistics = GaussianStatistics()
    for block in extracted.blocks("pool", numbers):
        statistics.update(block)
    return statistics.gaussian()


def _value(value: float | None, **detail: Any) -> Value:
    return Value(value, detail=detail)


class SetScores:
    """Values of points; what concerns the real pictures is computed once."""

    def __init__(self, material: Material):
        self._material = material
        self._request = material.request
        self._manifold: tuple[Sequence[int], PrecisionRecall] | None = None
        if self._request.save_statistics:
            path = self._request.save_statistics
            save_statistics(path, self._real_gaussian, self._provenance)

    def compute(self, metric: str, numbers: Sequence[int]) -> Value:
        """Value of a metric over some pictures."""
        if len(numbers) < 2:
            value = _value(None, reason=f"{len(numbers)} picture; a set needs two")
        else:
            value = getattr(self, f"_{metric}")(numbers)
        return replace(value, n=len(numbers))

    def _fid(self, numbers: Sequence[int]) -> Value:
        reason = caveats.too_few_for_fid(len(numbers), self._real_n, self._request.fid_minimum)
        if reason:
            self._warn([f"FID is not given: {reason}."])
            return _value(None, reason=reason)
        self._warn(caveats.rank(len(numbers), self._real_n, self._dim))
        self._warn_of_size(numbers)
        extracted = self._material.extracted("inception", GENERATED)
        if len(numbers) <= self._dim:
            generated = root_of_features(extracted.features("pool", numbers))
        else:
            generated = root_of(stored_gaussian(extracted, numbers))
        return _value(frechet_distance(generated, self._real_root), real=self._real_n)

    def _fid_infinity(self, numbers: Sequence[int]) -> Value:
        if len(numbers) < FID_INFINITY_MINIMUM:
            reason = f"fewer than {FID_INFINITY_MINIMUM:,} pictures; FID is not linear in 1/n there"
            self._warn([f"FID-infinity is not given: {reason}."])
            return _value(None, reason=reason)
        self._warn(caveats.extrapolated(self._real_n))
        self._warn_of_size(numbers)
        features = self._features("inception", GENERATED, "pool", numbers)
        value = fid_infinity(features, self._real_root, seed=self._request.seed)
        return _value(value, real=self._real_n)

    def _kid(self, numbers: Sequence[int]) -> Value:
        self._warn_of_size(numbers)
        result = kid(*self._both("inception", "pool", numbers), seed=self._request.seed)
        # Subsets that are the whole set are all alike: their spread says nothing.
        whole = result.subset_size == len(numbers) == self._real_n
        self._warn(caveats.few_for_kid(len(numbers), self._real_n))
        std = None if whole else result.std
        return _value(result.mean, std=std, subset_size=result.subset_size)

    def _is(self, numbers: Sequence[int]) -> Value:
        splits = self._request.splits
        if len(numbers) < splits:
            reason = f"{len(numbers)} pictures cannot fill {splits} splits"
            self._warn([f"Inception Score is not given: {reason}. Lower splits, or add pictures."])
            return _value(None, reason=reason)
        self._warn(caveats.inception_splits(len(numbers), splits))
        self._warn_of_size(numbers)
        logits = self._features("inception", GENERATED, "logits", numbers)
        result = inception_score(logits, splits, self._request.seed)
        return _value(result.mean, std=result.std, splits=splits)

    def _cmmd(self, numbers: Sequence[int]) -> Value:
        network = self._material.network("cmmd_clip")
        self._warn(caveats.published_cmmd(network.name))
        self._material.check_encoder("CMMD", "cmmd_clip")
        output = next(iter(network.outputs))
        generated, real = self._both("cmmd_clip", output, numbers)
        paper = cmmd(generated, real, biased=True)
        return _value(cmmd(generated, real), paper=paper, network=network.name)

    def _precision(self, numbers: Sequence[int]) -> Value:
        return _value(self._precision_recall(numbers).precision, k=3)

    def _recall(self, numbers: Sequence[int]) -> Value:
        return _value(self._precision_recall(numbers).recall, k=3)

    def _precision_recall(self, numbers: Sequence[int]) -> PrecisionRecall:
        """Both at once, as they share the distances."""
        if self._manifold is None or self._manifold[0] is not numbers:
            self._warn(caveats.precision_features(self._material.network("inception").name))
            self._warn_of_size(numbers)
            result = precision_recall(*self._both("inception", "pool", numbers))
            self._manifold = numbers, result
        return self._manifold[1]

    def _lpips_diversity(self, numbers: Sequence[int]) -> Value:
        extracted = self._material.extracted("lpips", DIVERSITY_PAIRS)
        pairs = diversity_pairs(self._material.entries, self._request.seed)
        chosen = set(numbers)
        inside = [i for i in extracted.numbers if set(pairs[i]) <= chosen]
        distances = extracted.features("distance", inside)
        first = [pairs[i][0] for i in inside]
        values, detail = distances.flatten().tolist(), {"pairs": len(inside)}
        return self._material.mean(values, first, detail, independent=False)

    def _features(self, role: str, source: str, output: str, numbers: Sequence[int]) -> Tensor:
        return self._material.extracted(role, source).features(output, numbers)

    def _both(self, role: str, output: str, numbers: Sequence[int]) -> tuple[Rows, Rows]:
        """Features of the generated and of the real pictures; they stay on disk."""
        extracted = self._material.extracted
        real = extracted(role, REAL).rows(output, self._material.usable[REAL])
        return extracted(role, GENERATED).rows(output, numbers), real

    def _warn_of_size(self, numbers: Sequence[int]) -> None:
        """One warning for all metrics that few pictures make incomparable with papers."""
        n, request = len(numbers), self._request
        usable = self._material.usable.get(REAL)
        behind = {name: None if usable is None else len(usable) for name in caveats.SIZED}
        if {*request.metrics} & {*BY_STATISTICS}:
            behind |= dict.fromkeys(BY_STATISTICS, self._real_n)
        behind["is"] = None
        given = {
            "fid": not caveats.too_few_for_fid(n, behind["fid"], request.fid_minimum),
            "fid_infinity": n >= FID_INFINITY_MINIMUM,
            "is": n >= request.splits,
        }
        asked = [m for m in request.metrics if m in behind and given.get(m, True)]
        self._warn(caveats.comparable(n, {metric: behind[metric] for metric in asked}))

    def _warn(self, warnings: Sequence[str]) -> None:
        self._material.warnings.extend(warnings)

    @property
    def _dim(self) -> int:
        return self._material.network("inception").outputs["pool"]

    @property
    def _provenance(self) -> Provenance:
        network = self._material.network("inception")
        return Provenance(network.name, network.weights, network.resize, "pool")

    @cached_property
    def _statistics(self) -> Gaussian | None:
        """Statistics in the file that stands for the real pictures, where there is one."""
        if self._request.statistics is None:
            return None
        loaded = load_statistics(self._request.statistics, self._provenance)
        self._warn([loaded.warning] if loaded.warning else [])
        return loaded.gaussian

    @property
    def _real_n(self) -> int | None:
        if self._statistics is not None:
            return self._statistics.n
        return len(self._material.usable[REAL])

    @cached_property
    def _real_gaussian(self) -> Gaussian:
        real = self._material.extracted("inception", REAL)
        return stored_gaussian(real, self._material.usable[REAL])

    @cached_property
    def _real_root(self) -> Root:
        if self._statistics is not None:
            return root_of(self._statistics)
        numbers = self._material.usable[REAL]
        if len(numbers) <= self._dim:
            return root_of_features(self._features("inception", REAL, "pool", numbers))
        return root_of(self._real_gaussian)
