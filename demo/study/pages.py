"""From what was judged to the page: scores, figures, comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ...demo_world import world
from ..prompt import STEPS
from . import confirmed as confirmed_page
from . import measure as run
from .cells import (
    BASE,
    COMPARED,
    CONFIRMED,
    DESCRIBED,
    MAIN,
    NUMBERS,
    RECODED,
    SWEPT,
    TUNED,
    USES,
    Cell,
    Part,
    without,
)
from .people import FEATURED, FEATURED_VIEWS, PROMPTS, People, held_out
from .results import Found, write
from .side_by_side import side_by_side
from .summary import (
    Claim,
    Row,
    Tensors,
    also_wrong,
    by_attribute,
    by_showing,
    chance,
    claims,
    hidden,
    ranking,
    summarise,
)

ABOUT = """\
The study was made in the [demo world](demo-world.md), whose drawn people have 16 attributes each;
a picture hides 44 % of them on average. It uses {people} people whom no model has seen, with
{seeds} views and noises for each. Every condition draws the same views from the same noise, so
differences are paired. A score is the mean over the pictures, with its 95 % interval over the
people. Guidance is {cfg:g}, with {steps} steps; lambda is 1 unless stated otherwise. The first
half of these people had been looked at before, when guidance and models were chosen;
lambda = 1.25 was chosen on other people. The shipped settings were chosen later, and were
[tested on people never looked at](results-confirmed.md). One command makes both pages:
`python -m multi_ipadapter.demo.study` ([how](demo-world.md#repeat-the-study)).

- **Attribute accuracy**: share of the attributes in the wanted view that are right.
- **Identity similarity**: cosine between the picture and four other real views of the person.
- **Caption alignment**: share of what the wanted view's caption says (pose, hat, eyewear, what
  covers the mouth, colours, background, crop, light, shirt) that is right.
- **Copy-paste**: 1 for a copy of a reference, -1 for the real picture of the wanted view (arXiv
  2510.14975, equation 2); lower is better. Only the nearest of the N references counts, so
  compare conditions with the same N.
- A separate scorer, trained on other people and used for nothing else, gives all scores. FID, KID
  and the Inception Score (56 classes: hair style by hair colour) are computed in its feature
  space, so they cannot be compared with those of papers. FID and KID compare with {pictures} real
  pictures of {others} people who are not in the study. With so few pictures even real ones are
  far from 0: see the table at the end.

The adapters differ only in what is named below. Each was trained once, by this pack's trainer,
for the same number of steps with the same seed, so the intervals cover differences between
people, not between training runs. All adapters read one vector of each picture, from an encoder
that has learned to match pictures of drawn people with short descriptions.

- `multi_learned`, `multi_concat`, `multi_mean`: restore a hidden picture from 1 to 7 other
  pictures of the person, joined as the name says.
- `multi_slots`: like `multi_learned`, but with a pair of weight matrices for each place of a
  reference (2N matrices in a layer) instead of one pair for all. The eighth place was never
  trained.
- `single`: restores a picture from itself, as the public adapters were trained; then used with
  several references by `concat` or `mean`, which need no training.
- `pairs`: restores a picture from one other picture of the person; then used like `single`.
- *Told in words*: no adapter; the prompt says what the wanted view shows of the person, up to ten
  attributes."""


class Measured(NamedTuple):
    """A part of the study, scored.

    Attributes:
        people: whom it shows.
        cells, truth: scores of the cells and of the real pictures.
        rows, ceiling: their figures.
    """

    people: People
    cells: Mapping[Cell, Tensors]
    truth: Tensors
    rows: Mapping[Cell, Row]
    ceiling: Row


def measured(part: Part, folder: Path, adapters: Path) -> Measured:
    """Measure what is missing, and score all."""
    judged = run.measure(part, folder, adapters)
    people = held_out(folder / "pictures", run.PEOPLE, part.first)
    real, others = run.real_pictures(folder), run.other_features(folder)
    cells = {cell: run.scored(said, cell, people, real) for cell, said in judged.items()}
    truth = run.ceiling(people, real)
    rows = {cell: summarise(tensors, others) for cell, tensors in cells.items()}
    return Measured(people, cells, truth, rows, summarise(truth, others))


def confirmed(folder: Path, adapters: Path, output: Path) -> list[Claim]:
    """What the demo ships, on people never looked at; returns the claims."""
    people, cells, truth, rows, ceiling = measured(CONFIRMED, folder, adapters)
    found = claims(cells, truth, rows, chance(people), (CONFIRMED.weight,))
    told, four = cells[without(DESCRIBED)], cells[Cell(*MAIN, SWEPT, CONFIRMED.weight)]
    shown = {
        "real pictures": truth,
        "real pictures through the VAE": cells[without(RECODED)],
        "base, told up to ten attributes in words": told,
        f"{MAIN[0]}, N = {SWEPT}": four,
    }
    all_seen_hidden = range(SWEPT + 1), range(1, SWEPT + 1), range(1)  # in how many references
    bounds = confirmed_page.Bounds(
        hidden(people, SWEPT),
        {
            name: tuple(by_showing(tensors, people, SWEPT, times) for times in all_seen_hidden)
            for name, tensors in shown.items()
        },
        also_wrong(four, told, truth, people),
    )
    confirmed_page.write(output, rows, ceiling, found, bounds, about_confirmed())
    return found


def compared(folder: Path, adapters: Path, output: Path) -> list[Claim]:
    """All ways to train and to aggregate; returns the claims."""
    people, cells, truth, rows, ceiling = measured(COMPARED, folder, adapters)
    four = cells[Cell(*MAIN, SWEPT, 1.0)]
    shown = {
        "base": cells[without(BASE)],
        **{f"N = {n}": cells[Cell(*MAIN, n, 1.0)] for n in (1, SWEPT, 8)},
        "told in words": cells[without(DESCRIBED)],
        "real": truth,
    }
    uses = [(adapter, method) for adapter, methods in USES.items() for method in methods]
    found = Found(
        rows=rows,
        ceiling=ceiling,
        ranks=ranking(cells),
        claims=claims(cells, truth, rows, chance(people), (COMPARED.weight, TUNED)),
        attributes={"guess": [1 / len(names) for names in world.ATTRIBUTES.values()]}
        | {name: by_attribute(tensors, people) for name, tensors in shown.items()},
        covered={
            use: [
                by_showing(cells[Cell(*use, n, 1.0)], people, n, range(1, n + 1)) for n in NUMBERS
            ]
            for use in uses
        },
        times_shown={
            use: [
                by_showing(cells[Cell(*use, SWEPT, 1.0)], people, SWEPT, range(k, k + 1))
                for k in range(SWEPT + 1)
            ]
            for use in uses
        },
        also_wrong=also_wrong(four, cells[without(DESCRIBED)], truth, people),
    )
    people_sheet = side_by_side(lambda cell: run.sheet_path(folder, cell))
    write(output, found, people_sheet, about_compared())
    return found.claims


def about_compared() -> str:
    """Head of the page of the first part."""
    return ABOUT.format(
        people=run.PEOPLE,
        seeds=PROMPTS,
        cfg=COMPARED.cfg,
        steps=STEPS,
        others=FEATURED,
        pictures=FEATURED * FEATURED_VIEWS,
    )


def about_confirmed() -> str:
    """Head of the page of the second part."""
    return confirmed_page.ABOUT.format(**CONFIRMED._asdict(), people=run.PEOPLE)
