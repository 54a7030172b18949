"""Figures of reports: curves with bands, the alignment scatter, tables of values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from PIL import Image, ImageDraw

from ..figures.axes import COLOURS, INK, Axes, Drawn, font, shortened, shown
from .report import EvaluationReport, Point, Value, text_of

Reports = EvaluationReport | Mapping[str, EvaluationReport]
_LINE = 22  # height of a line of a table
_MOST_BANDS = 4  # more of them cannot be told apart


def metric_chart(reports: Reports, metric: str, along: str = "weight") -> Image.Image:
    """A metric against a condition, such as lambda or the number of references.

    One curve for each combination of the other conditions, with its confidence band.

    Raises:
        ValueError: no value of the metric, or no point with the condition.
    """
    curves = _curves(reports, metric, along)
    if not curves:
        raise ValueError(
            f"There is no {metric} with a number for {along!r}. Choose a metric and a condition "
            "of the report."
        )
    coloured = [
        (name, points, COLOURS[i % len(COLOURS)]) for i, (name, points) in enumerate(curves)
    ]
    ys = [y for _, points, _ in coloured for _, v in points for y in (v.value, v.low, v.high)]
    legend = [Drawn(name, colour) for name, _, colour in coloured if name]
    axes = Axes(
        f"{metric} against {along}",
        along,
        f"{metric}{_counts(p for _, points, _ in coloured for p in points)}",
        [x for _, points, _ in coloured for x, _ in points],
        [y for y in ys if y is not None],
        legend,
    )
    for _, points, colour in coloured:
        band = [(x, v.low, v.high) for x, v in points if v.low is not None and v.high is not None]
        axes.band(band, colour, filled=len(coloured) <= _MOST_BANDS)
    for _, points, colour in coloured:
        axes.line([(x, v.value) for x, v in points], colour)
    return axes.image


def alignment_scatter(
    reports: Reports,
    x: str = "text_alignment",
    y: str = "image_alignment",
    label: str = "weight",
) -> Image.Image:
    """Text alignment against image alignment, a dot for each point, labelled by a condition.

    Raises:
        ValueError: no point has both metrics.
    """
    curves = []
    for name, points in _by_other_conditions(reports, label):
        both = [p for p in points if _has(p, x) and _has(p, y)]
        if both:
            curves.append((name, both))
    if not curves:
        raise ValueError(f"No point has both {x} and {y}. Evaluate both metrics.")
    coloured = [
        (name, points, COLOURS[i % len(COLOURS)]) for i, (name, points) in enumerate(curves)
    ]
    axes = Axes(
        f"{y} against {x}",
        x,
        f"{y}; the dots are labelled by {label}",
        [_number(p, x) for _, points, _ in coloured for p in points],
        [_number(p, y) for _, points, _ in coloured for p in points],
        [Drawn(name, colour) for name, _, colour in coloured if name],
    )
    lines = []
    for _, points, colour in coloured:
        places = [(_number(p, x), _number(p, y)) for p in points]
        axes.line(places, colour)
        lines.append([axes.place(*place) for place in places])
    taken = [_around(place) for line in lines for place in _along(line)]
    for (_, points, colour), line in zip(coloured, lines, strict=True):
        for point, place in zip(points, line, strict=True):
            if label in point.conditions:
                _label(axes, shown(point.conditions[label]), place, colour, taken)
    return axes.image


def table(reports: Reports, width: int = 1200) -> Image.Image:
    """Values of all points, one row each, and the warnings below."""
    named = _named(reports)
    points = [(name, point) for name, report in named.items() for point in report.points]
    metrics = list(dict.fromkeys(m for _, point in points for m in point.values))
    header = ["", "n", *metrics]
    rows = [
        [
            ", ".join(filter(None, [name, _conditions(point.conditions)])) or "all pictures",
            str(point.n),
            *(text_of(point.values[m]) if m in point.values else "" for m in metrics),
        ]
        for name, point in points
    ]
    face = font(14)
    widths = [
        min(300, round(max(face.getlength(row[i]) for row in [header, *rows]))) + 24
        for i in range(len(header))
    ]
    width = max(width, sum(widths) + 24)
    warnings = [
        line
        for text in dict.fromkeys(w for report in named.values() for w in report.warnings)
        for line in _wrapped(f"! {text}", width - 24)
    ]
    height = 24 + _LINE * (len(rows) + 1) + (12 + _LINE * len(warnings) if warnings else 0)
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for number_of, row in enumerate([header, *rows]):
        y = 12 + number_of * _LINE
        if number_of % 2:
            draw.rectangle((0, y - 3, width, y + _LINE - 4), fill="#f4f6f8")
        for i, text in enumerate(row):
            place = (12 + sum(widths[:i]), y)
            draw.text(place, shortened(text, widths[i] - 16, 14), fill=INK, font=face)
    for number_of, text in enumerate(warnings):
        y = 24 + (len(rows) + 1 + number_of) * _LINE
        draw.text((12, y), text, fill="#a04000", font=face)
    return image


def _named(reports: Reports) -> dict[str, EvaluationReport]:
    return {"": reports} if isinstance(reports, EvaluationReport) else dict(reports)


def _by_other_conditions(reports: Reports, along: str) -> list[tuple[str, list[Point]]]:
    """Points that differ in one condition only, and what they have in common."""
    groups: dict[str, list[Point]] = {}
    for name, report in _named(reports).items():
        for point in report.points:
            others = {k: v for k, v in point.conditions.items() if k != along}
            key = ", ".join(filter(None, [name, _conditions(others)]))
            groups.setdefault(key, []).append(point)
    return list(groups.items())


def _curves(reports: Reports, metric: str, along: str) -> list[tuple[str, list]]:
    curves = []
    for name, points in _by_other_conditions(reports, along):
        placed = [
            (float(point.conditions[along]), point.values[metric])
            for point in points
            if isinstance(point.conditions.get(along), (int, float)) and _has(point, metric)
        ]
        if placed:
            curves.append((name, sorted(placed, key=lambda pair: pair[0])))
    return curves


def _has(point: Point, metric: str) -> bool:
    return metric in point.values and point.values[metric].value is not None


def _number(point: Point, metric: str) -> float:
    """The value of a metric that the point has."""
    value = point.values[metric].value
    assert value is not None
    return value


def _counts(points: Iterable[tuple[float, Value]]) -> str:
    counts = sorted({value.n for _, value in points})
    return f" (n = {counts[0]}" + (f" to {counts[-1]})" if len(counts) > 1 else ")")


def _conditions(conditions: Mapping) -> str:
    return ", ".join(f"{name} {shown(value)}" for name, value in conditions.items())


def _around(place: tuple[float, float]) -> tuple[float, float, float, float]:
    return place[0] - 4, place[1] - 4, place[0] + 4, place[1] + 4


def _along(places: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """The points, and others between them, a few pixels apart."""
    yield from places
    for (x0, y0), (x1, y1) in pairwise(places):
        steps = round(math.hypot(x1 - x0, y1 - y0) / 6)
        for i in range(1, steps):
            yield x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps


def _label(axes: Axes, text: str, place: tuple[float, float], colour: str, taken: list) -> None:
    """Beside a dot, on the first side where nothing else is; left out where there is none."""
    width, (x, y) = font(13).getlength(text), place
    for dx, dy in ((10, -8), (10, 8), (-10 - width, -8), (-10 - width, 8), (-width / 2, -24),
                   (-width / 2, 10)):  # fmt: skip
        box = (x + dx, y + dy - 2, x + dx + width, y + dy + 14)
        inside = axes.left <= box[0] and box[2] <= axes.right and box[3] <= axes.bottom
        if inside and not any(_overlap(box, other) for other in taken):
            axes.draw.text((box[0], box[1]), text, fill=colour, font=font(13))
            taken.append(box)
            return


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _wrapped(text: str, width: float) -> list[str]:
    """Lines of at most so many pixels."""
    face, lines, line = font(14), [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and face.getlength(longer) > width:
            lines.append(line)
            longer = f"  {word}"
        line = longer
    return [*lines, line]
