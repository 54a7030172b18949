"""How should N references be aggregated? Measured on the demo world, where the truth is known.

`python -m multi_ipadapter.demo.study --folder FOLDER --adapters ADAPTERS`: draws and scores every
condition, then writes `results.md`, `results.csv` and charts. What is measured already is kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ...training.comfyui import prepare_comfyui


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
    from .report import report

    found = report(options.folder, options.adapters, options.output)
    for claim in found:
        print(f"{'yes' if claim.holds else 'NO ':3}  {claim.text}: {claim.measured}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
