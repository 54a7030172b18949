"""Features -> the points of a report: one for each combination of conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import caveats
from .extract import Extracted
from .intervals import mean_interval
from .plan import GENERATED, METRICS, Pass, served_by
from .report import Point, Value

Scores = dict[int, float | None]  # by number of the generated picture


@dataclass
class Material:
    """All that the metrics read.

    Attributes:
        features: by (role, source).
        usable: source -> numbers of the pictures that count.
        warnings: of the report; metrics add theirs.
    """

    request: Any
    networks: Mapping[str, Any]
    features: Mapping[Pass, Extracted]
    usable: Mapping[str, Sequence[int]]
    warnings: list[str]
    check: Callable[[], None]

    @property
    def entries(self):
        """What is known about each generated picture."""
        return self.request.generated.entries

    def network(self, role: str) -> Any:
        """The network that serves a role."""
        return self.networks[served_by(role, self.networks)]

    def extracted(self, role: str, source: str) -> Extracted:
        """Features of a source through the network that serves a role."""
        return self.features[served_by(role, self.networks), source]

    def check_encoder(self, metric: str, role: str) -> None:
        """Warn where the network of a role conditioned the pictures."""
        conditioning = self.request.generated.conditioning
        self.warnings += caveats.same_encoder(metric, self.network(role), conditioning)

    def mean(
        self,
        values: Sequence[float],
        numbers: Sequence[int],
        detail: dict,
        independent: bool = True,
    ) -> Value:
        """Mean over pictures with an interval over identities and prompts, where it has one.

        Args:
            independent: values of one identity and prompt are; pairs, which share pictures, are
                not, and have no interval where neither varies.
        """
        if not values:
            return Value(None, n=0, detail={"reason": "no picture has a value"} | detail)
        if len(values) == 1:
            return Value(float(values[0]), n=1, detail=detail)
        interval = mean_interval(
            values,
            [self.entries[n].identity for n in numbers],
            [self.entries[n].prompt for n in numbers],
            confidence=self.request.confidence,
            seed=self.request.seed,
        )
        if interval.resampled == "images" and not independent:
            return Value(interval.mean, n=interval.n, detail=detail)
        detail = detail | {"resampled": interval.resampled, "clusters": interval.clusters}
        return Value(interval.mean, interval.low, interval.high, interval.n, detail)


def points(material: Material, of_set: Any, of_pictures: Any) -> tuple[list[Point], list[dict]]:
    """The points, and a row for each picture where there is something to tell of it.

    Args:
        of_set: `compute(metric, numbers) -> Value`.
        of_pictures: `compute(metric) -> Scores`, and `detail(metric, numbers)`.
    """
    scores: dict[str, Scores] = {}
    for metric in material.request.metrics:
        if METRICS[metric].per_image:
            material.check()
            scores[metric] = of_pictures.compute(metric)
    found = []
    for conditions, numbers in groups(material):
        values = {}
        for metric in material.request.metrics:
            material.check()
            if metric not in scores:
                values[metric] = of_set.compute(metric, numbers)
                continue
            scored = [n for n in numbers if scores[metric].get(n) is not None]
            detail = of_pictures.detail(metric, numbers)
            values[metric] = material.mean([scores[metric][n] for n in scored], scored, detail)
        found.append(Point(conditions, len(numbers), values))
    varied = any(point.conditions for point in found)  # a sheet shows which picture is which
    return found, _rows(material, scores) if scores or varied else []


def groups(material: Material) -> list[tuple[dict, list[int]]]:
    """Conditions and their pictures, ordered by the conditions."""
    found: dict[tuple, list[int]] = {}
    for number in material.usable[GENERATED]:
        key = tuple(sorted(material.entries[number].conditions.items()))  # 1 and 1.0 are one
        found.setdefault(key, []).append(number)
    pairs = [(dict(material.entries[numbers[0]].conditions), numbers) for numbers in found.values()]
    return sorted(pairs, key=lambda pair: [_order(pair[0], name) for name in sorted(pair[0])])


def _order(conditions: Mapping[str, Any], name: str) -> tuple:
    value = conditions[name]
    return (name, isinstance(value, str), value)


def _rows(material: Material, scores: Mapping[str, Scores]) -> list[dict]:
    rows = []
    for number in material.usable[GENERATED]:
        entry = material.entries[number]
        rows.append(
            {
                "image": material.request.generated.pictures.name(number),
                "identity": entry.identity,
                "prompt": entry.prompt,
                "conditions": dict(entry.conditions),
                "values": {metric: of.get(number) for metric, of in scores.items()},
            }
        )
    return rows
