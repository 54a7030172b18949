"""Which pictures count, after all networks have seen them; the others are listed with reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ..files.folder import Skipped
from ..files.names import printable
from ..pictures.decode import BadPictureError
from ..pictures.sources import Source, left_out
from . import caveats
from .extract import Extracted
from .pairs import PairSource
from .plan import GENERATED, METRICS, REAL, REFERENCES, TARGETS, Pass
from .report import SourceUse
from .request import Request


def use_sources(
    request: Request,
    sources: Mapping[str, Source],
    features: Mapping[Pass, Extracted],
    warnings: list[str],
) -> tuple[dict[str, list[int]], list[SourceUse]]:
    """Numbers of the pictures that count, by source; and what a report says about each source.

    Args:
        warnings: get those on sizes, formats and unusable pictures.

    Raises:
        ValueError: too few pictures remain.
    """
    usable, uses = {}, []
    for source in (GENERATED, REAL, REFERENCES, TARGETS):
        read = [extracted for (_, of), extracted in features.items() if of == source]
        if read or source == GENERATED:
            bad = {} if read else _bad_in_pairs(sources, features)
            usable[source], use = _use(request, source, sources[source], read, bad, warnings)
            uses.append(use)
    formats = {use.role: use.formats for use in uses if use.role in (GENERATED, REAL)}
    warnings += caveats.mixed_formats(formats)
    return usable, uses


def _use(
    request: Request,
    source: str,
    pictures: Source,
    read: Sequence[Extracted],
    bad: Mapping[int, Skipped],
    warnings: list[str],
) -> tuple[list[int], SourceUse]:
    """The pictures that count, and what a report says about the source.

    Raises:
        ValueError: too few of them.
    """
    numbers = [n for n in range(len(pictures)) if n not in bad]
    skipped = [*pictures.skipped, *bad.values()]
    if source == GENERATED:
        skipped = list(dict.fromkeys([*skipped, *request.generated.skipped]))
    if read:
        numbers = sorted(set(numbers).intersection(*(extracted.numbers for extracted in read)))
        skipped += {n: s for extracted in read for n, s in extracted.skipped.items()}.values()
    sizes = Counter(read[0].size(n) for n in numbers) if read else Counter()
    if source in (GENERATED, REAL):
        skip = request.mixed_sizes == "skip"
        warnings += caveats.mixed_sizes(source, sizes, skip)
        if skip and len(sizes) > 1:
            numbers, others = _of_common_size(pictures, read[0], numbers, sizes)
            skipped += others
            sizes = Counter(read[0].size(n) for n in numbers)
    _require(source, len(numbers), request.metrics, skipped)
    if skipped:
        warnings.append(f"{source}: not all could be used.{left_out(skipped)}")
    formats = Counter(read[0].format(n) for n in numbers) if read else Counter()
    use = SourceUse(
        source,
        len(numbers),
        {f"{width}x{height}": n for (width, height), n in sizes.most_common()},
        dict(formats),
        [[printable(s.path), s.reason] for s in skipped],
    )
    return numbers, use


def _bad_in_pairs(
    sources: Mapping[str, Source], features: Mapping[Pass, Extracted]
) -> dict[int, Skipped]:
    """Generated pictures that cannot be read, where networks have seen them in pairs only."""
    bad: dict[int, Skipped] = {}
    for (_, source), extracted in features.items():
        pairs = sources[source]
        if isinstance(pairs, PairSource):
            both = pairs.first is pairs.second
            skipped = [pairs.pairs[i] for i in extracted.skipped]
            for number in sorted({n for pair in skipped for n in pair[: 1 + both]}):
                try:
                    pairs.load_one(pairs.first, number)
                except BadPictureError as error:
                    name = pairs.first.name(number)
                    bad[number] = Skipped(name, str(error).removeprefix(f"{name}: "))
    return bad


def _of_common_size(
    pictures: Source, extracted: Extracted, numbers: Sequence[int], sizes: Counter
) -> tuple[list[int], list[Skipped]]:
    common = sizes.most_common(1)[0][0]
    kept = [n for n in numbers if extracted.size(n) == common]
    skipped = [
        Skipped(
            pictures.name(n),
            "is {}x{}; most pictures are {}x{}".format(*extracted.size(n), *common),
        )
        for n in numbers
        if extracted.size(n) != common
    ]
    return kept, skipped


def _require(source: str, count: int, metrics: Sequence[str], skipped: list[Skipped]) -> None:
    of_sets = [name for name in metrics if not METRICS[name].per_image]
    needed = 2 if of_sets and source in (GENERATED, REAL) else 1
    if count < needed:
        why = f" for {', '.join(of_sets)}" if needed == 2 else ""
        raise ValueError(
            f"Got {count} usable {source} pictures{why}; expected at least {needed}."
            f"{left_out(skipped)} Add pictures, or repair those left out."
        )
