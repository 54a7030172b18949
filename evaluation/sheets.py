"""The pictures of a report by two conditions, each with its score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from PIL import Image

from ..figures.axes import number, shown
from ..figures.sheets import contact_sheet
from ..pictures.sources import Source, picture_of
from .report import EvaluationReport


def xy_sheet(
    report: EvaluationReport,
    source: Source,
    metric: str = "",
    across: str = "weight",
    down: str = "references",
    side: int = 192,
) -> Image.Image:
    """The pictures of one identity and prompt by two conditions, each with its score.

    Args:
        source: of the generated pictures.
        metric: one of the report that gives values per picture; "": none is shown.

    Raises:
        ValueError: the report has no such conditions.
    """
    rows = [row for row in report.per_image if across in row["conditions"]]
    if not rows:
        raise ValueError(f"No picture of the report has the condition {across!r}.")
    first = rows[0]["identity"], rows[0]["prompt"]
    rows = [row for row in rows if (row["identity"], row["prompt"]) == first]
    numbers = {source.name(number): number for number in range(len(source))}
    by_place: dict[tuple, Mapping] = {}
    for row in rows:
        by_place.setdefault((row["conditions"].get(down), row["conditions"][across]), row)
    downs = _sorted({place[0] for place in by_place})
    acrosses = _sorted({place[1] for place in by_place})
    cells, captions = [], []
    for y in downs:
        chosen = [by_place.get((y, x)) for x in acrosses]
        cells.append(
            [None if row is None else picture_of(source, numbers[row["image"]]) for row in chosen]
        )
        captions.append([_score(row, metric) for row in chosen])
    return contact_sheet(
        cells,
        [f"{down} {shown(y)}" for y in downs] if downs != [None] else (),
        [f"{across} {shown(x)}" for x in acrosses],
        captions if metric else (),
        ", ".join(filter(None, [metric, *first])),
        side,
    )


def _sorted(values: Iterable) -> list:
    return sorted(values, key=lambda v: (v is None, isinstance(v, str), v if v is not None else 0))


def _score(row: Mapping | None, metric: str) -> str:
    if row is None or not metric:
        return ""
    value = row["values"].get(metric)
    return "no score" if value is None else number(value)
