"""Tensors of the cells -> means with intervals, set metrics, and paired comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...demo_world import world
from ...evaluation.metrics.frechet import frechet_distance_from_features
from ...evaluation.metrics.inception_score import inception_score
from ...evaluation.metrics.intervals import Interval, mean_interval
from ...evaluation.metrics.kernels import kid
from .cells import BASE, MAIN, RIVAL, SWEPT, USES, Cell, without
from .people import PROMPTS, People

Tensors = Mapping[str, Tensor]
SCORES = ("accuracy", "similarity", "caption", "copying")
SPLITS = 3
_CLASSES = ("hairstyle", "hair colour")  # their 56 pairs are the classes of the Inception Score


class Row(NamedTuple):
    """A cell's figures.

    Attributes:
        scores: name -> mean with its interval over identities; None where there is none.
        fid, kid: to real pictures of other people, in the scorer's features.
        inception: Inception Score over 56 classes.
    """

    scores: dict[str, Interval | None]
    fid: float
    kid: float
    inception: float


def identities(tensors: Tensors) -> list[int]:
    """Whom each picture shows."""
    return [i // PROMPTS for i in range(len(tensors["accuracy"]))]


def summarise(tensors: Tensors, real: Tensor) -> Row:
    """Figures of one cell; `real` are features of real pictures of other people [n, D]."""
    who = identities(tensors)
    scores = {
        name: None if tensors[name].isnan().any() else mean_interval(tensors[name], who)
        for name in SCORES
    }
    features = tensors["features"].double()
    distance = frechet_distance_from_features(features, real.double())
    return Row(
        scores,
        distance,
        kid(tensors["features"], real).mean,
        inception_score(classes(tensors), SPLITS).mean,
    )


def classes(tensors: Tensors) -> Tensor:
    """Logits of the pairs of hair style and hair colour [n, 56]."""
    first, second = (
        tensors[f"attribute.{list(world.ATTRIBUTES).index(name)}"].log_softmax(1)
        for name in _CLASSES
    )
    return (first[:, :, None] + second[:, None, :]).flatten(1)


class Marks(NamedTuple):
    """Each attribute of each picture, [n, attributes].

    Attributes:
        right: is it what it should be?
        seen: does the wanted view show it?
    """

    right: Tensor
    seen: Tensor


def marks(tensors: Tensors, people: People) -> Marks:
    """Attribute by attribute, by the world's truth."""
    wanted = people.prompts.flatten()
    truth = torch.tensor(people.pictures.attributes)[wanted]
    said = [tensors[f"attribute.{k}"].argmax(1) for k in range(truth.shape[1])]
    return Marks(torch.stack(said, dim=1) == truth, torch.tensor(people.pictures.visible)[wanted])


def by_attribute(tensors: Tensors, people: People) -> list[float]:
    """For each of the world's attributes, the share that is right of the pictures to show it."""
    right, seen = marks(tensors, people)
    return ((right & seen).sum(0) / seen.sum(0)).tolist()


def by_showing(tensors: Tensors, people: People, references: int, showing: range) -> Interval:
    """Share right of the attributes that `showing` of the references show, by identity."""
    right, seen = marks(tensors, people)
    given = torch.tensor(people.pictures.visible)[people.references[:, :references]].sum(1)
    times = given.repeat_interleave(PROMPTS, 0)
    counted = seen & (times >= showing.start) & (times < showing.stop)
    who = torch.arange(len(right))[:, None].expand_as(right) // PROMPTS
    return mean_interval(right[counted].double(), who[counted].tolist())


def hidden(people: People, references: int) -> float:
    """Share of the attributes in the wanted views that no reference shows."""
    seen = torch.tensor(people.pictures.visible)
    given = seen[people.references[:, :references]].any(1).repeat_interleave(PROMPTS, 0)
    wanted = seen[people.prompts.flatten()]
    return ((wanted & ~given).sum() / wanted.sum()).item()


def also_wrong(four: Tensors, told: Tensors, real: Tensors, people: People) -> tuple[float, float]:
    """How often an attribute is wrong when told in words: of those that four references get
    wrong, and of all; both of those only that are right in the real picture."""
    wrong, (_, seen) = ~marks(told, people).right, marks(real, people)
    readable = seen & marks(real, people).right
    missed = readable & ~marks(four, people).right
    return wrong[missed].double().mean().item(), wrong[readable].double().mean().item()


def difference(a: Tensors, b: Tensors, score: str) -> Interval:
    """Mean of a - b over the same people, views and noise, with its interval over identities."""
    return mean_interval(a[score] - b[score], identities(a))


class Rank(NamedTuple):
    """How one way to use N = 4 references does, with its paired differences to the main one."""

    adapter: str
    aggregation: str
    differences: dict[str, Interval]


def ranking(cells: Mapping[Cell, Tensors]) -> list[Rank]:
    """All adapters and aggregations at N = 4, the most accurate first."""

    def accuracy(use: tuple[str, str]) -> float:
        return cells[Cell(*use, SWEPT, 1.0)]["accuracy"].mean().item()

    uses = [(adapter, method) for adapter, methods in USES.items() for method in methods]
    main = cells[Cell(*MAIN, SWEPT, 1.0)]
    return [
        Rank(*use, {s: difference(cells[Cell(*use, SWEPT, 1.0)], main, s) for s in SCORES})
        for use in sorted(uses, key=accuracy, reverse=True)
    ]


def chance(people: People) -> float:
    """Accuracy of a guess that knows the wanted view, but nothing of the person.

    It guesses among the values that such a view can show. Any value at all would be too low: an
    attribute counts only where it is seen, and for some values, such as freckles, that is in more
    views than for others.
    """
    pictures = people.pictures
    rows = people.prompts.flatten().tolist()
    shares = [_guess(pictures.attributes[row], pictures.factors[row]) for row in rows]
    return sum(shares) / len(shares)


def _guess(values: Sequence[int], factors: Sequence[int]) -> float:
    """The same of one picture."""
    view = world.View(tuple(factors), None)

    def shown(values: Sequence[int]) -> tuple[bool, ...]:
        return world.visible(world.Identity(0, tuple(values), None), view)

    found = []
    for k, (seen, names) in enumerate(zip(shown(values), world.ATTRIBUTES.values(), strict=True)):
        if seen:
            others = ((*values[:k], value, *values[k + 1 :]) for value in range(len(names)))
            found.append(1 / sum(shown(other)[k] for other in others))
    return sum(found) / len(found)


class Claim(NamedTuple):
    """A statement of the study and what came out."""

    text: str
    holds: bool
    measured: str


def claims(
    cells: Mapping[Cell, Tensors],
    ceiling: Tensors,
    rows: Mapping[Cell, Row],
    chance: float,
    weights: Sequence[float],
) -> list[Claim]:
    """What the demo world was built to find out.

    Args:
        cells, ceiling, rows: the conditions, and the real pictures of the wanted views.
        chance: accuracy of a guess.
        weights: lambda; then others with which the adapter is compared with real pictures too.
    """
    base, four = without(BASE), Cell(*MAIN, SWEPT, weights[0])
    return [
        *_more_references(cells, ceiling, weights),
        _at_chance(rows[base].scores["accuracy"], chance),
        *_against_one_reference(cells, cells[four]),
        _captions_kept(cells[four], cells[base]),
        Claim(
            "FID of N = 4 is below the base model's",
            rows[four].fid < rows[base].fid,
            f"{rows[four].fid:.2f}, {rows[base].fid:.2f}",
        ),
    ]


def _more_references(
    cells: Mapping[Cell, Tensors], ceiling: Tensors, weights: Sequence[float]
) -> Iterator[Claim]:
    one, four, eight = (cells[Cell(*MAIN, n, weights[0])] for n in (1, SWEPT, 8))
    for score, least, unit in (("accuracy", 0.10, 100), ("similarity", 0.0, 1)):
        gain = difference(four, one, score)
        further = difference(eight, four, score)
        yield Claim(
            f"{score}: N = 4 is above N = 1" + (" by at least 10 points" if least else ""),
            gain.mean >= least and gain.low > 0,
            shown(gain, unit),
        )
        yield Claim(f"{score}: N = 8 is not below N = 4", further.low >= 0, shown(further, unit))
        for weight in weights:
            yield _reaches(cells[Cell(*MAIN, SWEPT, weight)], ceiling, score, weight)


def _at_chance(guessed: Interval, chance: float) -> Claim:
    return Claim(
        "accuracy without references is at chance",
        guessed.low <= chance <= guessed.high,
        f"{_plain(guessed, 100)}; a guess has {100 * chance:.1f}",
    )


def _against_one_reference(cells: Mapping[Cell, Tensors], four: Tensors) -> Iterator[Claim]:
    for name, rival in rivals(cells, four).items():
        gain = difference(four, cells[rival], "accuracy")
        caption = difference(four, cells[rival], "caption")
        yield Claim(
            f"trained on several against one reference, at N = 4, {name} "
            f"({rival.aggregation}, lambda {rival.weight:g})",
            gain.low > 0 and caption.mean > -0.02,
            f"{shown(gain, 100)}, caption {shown(caption, 100)}",
        )


def _captions_kept(four: Tensors, base: Tensors) -> Claim:
    caption = difference(four, base, "caption")
    text = "caption alignment stays within 5 points of the base model"
    return Claim(text, caption.low > -0.05, shown(caption, 100))


def rivals(cells: Mapping[Cell, Tensors], four: Tensors) -> dict[str, Cell]:
    """The most accurate way to use the adapter trained on one reference, and the most accurate
    of those whose caption alignment is within 2 points."""

    def accuracy(cell: Cell) -> float:
        return cells[cell]["accuracy"].mean().item()

    used = [cell for cell in cells if cell.adapter == RIVAL[0] and cell.references == SWEPT]
    alike = [c for c in used if abs(difference(four, cells[c], "caption").mean) <= 0.02]
    found = {"the most accurate use": max(used, key=accuracy)}
    return found | ({"at equal captions": max(alike, key=accuracy)} if alike else {})


def _reaches(cell: Tensors, ceiling: Tensors, score: str, weight: float) -> Claim:
    share = (cell[score].mean() / ceiling[score].mean()).item()
    above = mean_interval(cell[score] - 0.8 * ceiling[score], identities(cell))
    spread = (above.high - above.low) / 2 / ceiling[score].mean().item()
    text = f"{score}: N = 4 reaches 80 % of real pictures, lambda = {weight:g}"
    return Claim(text, above.mean >= 0, f"{100 * share:.1f} % ± {100 * spread:.1f}")


def shown(interval: Interval, unit: float) -> str:
    """A difference with its interval, times `unit`."""
    digits = 1 if unit == 100 else 3
    low, mean, high = (
        f"{unit * x:+.{digits}f}" for x in (interval.low, interval.mean, interval.high)
    )
    return f"{mean} [{low}, {high}]"


def _plain(interval: Interval, unit: float) -> str:
    return f"{unit * interval.mean:.1f} [{unit * interval.low:.1f}, {unit * interval.high:.1f}]"
