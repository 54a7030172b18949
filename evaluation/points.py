"""Features -> the points of a report: one for each combination of conditions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .material import Material, Scores
from .picture_scores import PictureScores
from .plan import GENERATED, METRICS
from .report import Point
from .set_scores import SetScores


def points(material: Material) -> tuple[list[Point], list[dict]]:
    """The points, and a row for each picture where there is something to tell of it."""
    of_set, of_pictures = SetScores(material), PictureScores(material)
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
            of = scores[metric]
            scored = {n: score for n in numbers if (score := of.get(n)) is not None}
            detail = of_pictures.detail(metric, numbers)
            values[metric] = material.mean(list(scored.values()), list(scored), detail)
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
