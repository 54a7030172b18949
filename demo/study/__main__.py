"""How should N references be aggregated? Measured on the demo world, where the truth is known.

`python -m multi_ipadapter.demo.study --folder FOLDER --adapters ADAPTERS`: draws and scores every
condition, then writes `results.md`, `results-confirmed.md`, their tables and charts. What is
measured already is kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ...runs.comfyui import prepare_comfyui

# compared: all ways to train and to aggregate. confirmed: what the demo ships, on other people.
PARTS = ("compared", "confirmed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m multi_ipadapter.demo.study", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--folder", type=Path, required=True, help="for pictures and scores")
    parser.add_argument("--adapters", type=Path, required=True, help="folder of the adapters")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="for the results")
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"{' or '.join(PARTS)}; default: all"
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"got {', '.join(sorted(unknown))}; expected {' or '.join(PARTS)}")
    prepare_comfyui()
    from . import pages as report

    for part in options.parts or PARTS:
        write = getattr(report, part)
        for claim in write(options.folder / part, options.adapters, options.output):
            print(f"{'yes' if claim.holds else 'NO ':3}  {claim.text}: {claim.measured}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
