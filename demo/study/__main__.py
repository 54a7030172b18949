"""How should N references be aggregated? Measured on the demo world, where the truth is known.

`python -m multi_ipadapter.demo.study --folder FOLDER --adapters ADAPTERS`: draws and scores every
condition, then writes `results.md`, `results.csv` and charts. What is measured already is kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file

from ...training.comfyui import prepare_comfyui

ABOUT = """\
Measured on the [demo world](demo-world.md): drawn people of 16 attributes each, of which every
picture hides 44 % on average. {people} people whom no model has seen, {seeds} views and noises of
each; every condition draws the same views from the same noise, so differences are paired. A score
is the mean over the pictures with its 95 % interval over the people. Guidance is {cfg:g}, with
{steps} steps; lambda is 1 where nothing else is said. One command makes this page:
`python -m multi_ipadapter.demo.study` ([how](demo-world.md#train-them-again)).

- **Attribute accuracy**: of the attributes that the wanted view shows, the share that is right.
- **Identity similarity**: cosine between the picture and four other real views of the person.
- **Caption alignment**: of what every caption tells (hat, eyewear, what covers the mouth,
  background, crop), the share that is right.
- **Copy-paste**: 1 for a copy of a reference, -1 for the real picture of the wanted view
  (arXiv 2510.14975, equation 2).
- All by a scorer that is used for nothing else, trained on other people. FID, KID and the
  Inception Score (56 classes: hair style by hair colour) are in its feature space and cannot be
  compared with those of papers. So few pictures have an FID of their own: compare with that of
  real ones in the table at the end.

The adapters differ in nothing but what is named; each was trained by this pack's trainer for the
same number of steps with the same seed:

- `multi_learned`, `multi_concat`, `multi_mean`: a picture is dropped and restored from 1 to 7
  others of the person, aggregated as named.
- `multi_slots`: as `multi_learned`, with a pair of weight matrices for each place of a reference
  (2N matrices in a layer) instead of one for all. The eighth place has never been trained.
- `single`: restores a picture from itself, as the public adapters were trained; then used with
  several references by `concat` or `mean`, which need no training.
- `pairs`: restores a picture from one other picture of the person; then used as `single`.
- *Told in words*: no adapter; the prompt tells what the wanted view shows of the person."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m multi_ipadapter.demo.study", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--folder", type=Path, required=True, help="for pictures and scores")
    parser.add_argument("--adapters", type=Path, required=True, help="folder of the adapters")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="for the results")
    options = parser.parse_args(arguments)
    prepare_comfyui()
    from .. import world
    from .cells import BASE, DESCRIBED, MAIN, SWEPT, Cell, without
    from .compared import side_by_side
    from .drawing import CFG, STEPS
    from .people import PROMPTS, held_out
    from .results import write
    from .run import PEOPLE, ceiling, measure, sheet_path
    from .summary import by_attribute, claims, ranking, summarise

    cells = measure(options.folder, options.adapters)
    truth = ceiling(options.folder)
    real = load_file(options.folder / "real.safetensors")["features"]
    rows = {cell: summarise(tensors, real) for cell, tensors in cells.items()}
    about = ABOUT.format(people=PEOPLE, seeds=PROMPTS, cfg=CFG, steps=STEPS)
    found = claims(cells, truth, rows)
    people = held_out(options.folder / "pictures", PEOPLE)
    shown = {
        "base": cells[without(BASE)],
        **{f"N = {n}": cells[Cell(*MAIN, n, 1.0)] for n in (1, SWEPT, 8)},
        "told in words": cells[without(DESCRIBED)],
        "real": truth,
    }
    attributes = {"guess": [1 / len(names) for names in world.ATTRIBUTES.values()]}
    attributes |= {name: by_attribute(tensors, people) for name, tensors in shown.items()}
    drawn = side_by_side(lambda cell: sheet_path(options.folder, cell))
    real_row, ranks = summarise(truth, real), ranking(cells)
    write(options.output, rows, real_row, ranks, found, attributes, drawn, about)
    for claim in found:
        print(f"{'yes' if claim.holds else 'NO ':3}  {claim.text}: {claim.measured}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
