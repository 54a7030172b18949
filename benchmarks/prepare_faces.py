"""Benchmark of Prepare Faces: memory, time and cancel with a folder of 12-megapixel pictures.

`python dev.py bench prepare_faces [--pictures 100] [--out FILE.json]`
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from . import _prepare_faces_pictures as pictures

FEW = 8  # faces that are kept of many, as in the workflows
DECODED = pictures.WIDTH * pictures.HEIGHT * 3  # bytes of a picture
MORE_GOAL = 3  # decoded pictures that many may need on top of one


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python dev.py bench prepare_faces", description=__doc__)
    parser.add_argument("--pictures", type=int, default=100, help="2 to 256 (default: 100)")
    parser.add_argument(
        "--stop", type=int, default=10, help="pictures done when Cancel is pressed (default: 10)"
    )
    parser.add_argument("--out", type=Path, help="also write the results as JSON")
    options = parser.parse_args()
    if not 2 <= options.pictures <= pictures.MOST or not 0 < options.stop < options.pictures:
        parser.error(f"expected 2 to {pictures.MOST} pictures, and to stop before the last")
    return options


def main() -> None:
    """Measure, print, and write."""
    options = parse_arguments()
    machine = {
        "cpu": f"{platform.machine()}, 1 PyTorch thread",
        "pictures": f"{pictures.WIDTH} x {pictures.HEIGHT}, JPEG",
    }
    print(", ".join(f"{key}: {value}" for key, value in machine.items()), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        pictures.write_pack(Path(folder))
        pictures.write_pictures(Path(folder) / "input" / "one", 1)
        pictures.write_pictures(Path(folder) / "input" / "many", options.pictures)
        rows = [
            in_own_process(folder, "one", keep=0),
            in_own_process(folder, "many", keep=FEW),
            in_own_process(folder, "many", keep=0),
        ]
        stopped = in_own_process(folder, "many", keep=0, stop=options.stop)
    print_rows(rows)
    print_stop(stopped, options)
    if options.out:
        results = {"machine": machine, "runs": rows, "cancel": stopped}
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"\nwritten to {options.out}")


def in_own_process(folder: str, name: str, keep: int, stop: int = 0) -> dict:
    """What the node needs for a folder of pictures; see `_prepare_faces_run`."""
    module = f"{__package__}._prepare_faces_run"
    command = [sys.executable, "-m", module, folder, name, str(keep), str(stop)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def print_rows(rows: list[dict]) -> None:
    """Peak memory that the node adds to ComfyUI's process, and the time, one sample each."""
    print("\n## Prepare Faces\n")
    print("| pictures | kept | peak, MB | of it results | the rest | s a picture | goal |")
    print("|--:|--:|--:|--:|--:|--:|---|")
    one = rows[0]["peak"] - rows[0]["results"]
    for row in rows:
        rest = row["peak"] - row["results"]
        met = "met" if rest - one <= MORE_GOAL * DECODED else "MISSED"
        goal = "" if row is rows[0] else f"<= {(one + MORE_GOAL * DECODED) / 1e6:.0f} MB: {met}"
        cells = " | ".join(f"{value / 1e6:.0f}" for value in (row["peak"], row["results"], rest))
        seconds = row["seconds"] / row["pictures"]
        print(f"| {row['pictures']} | {row['kept']} | {cells} | {seconds:.1f} | {goal} |")


def print_stop(stopped: dict, options: argparse.Namespace) -> None:
    """Cancel, pressed as the next picture begins: how many were opened."""
    met = "met" if stopped["stopped"] and stopped["opened"] <= options.stop + 1 else "MISSED"
    print(
        f"\nCancel after {options.stop} of {stopped['pictures']} pictures: {stopped['opened']} "
        f"were opened (goal: none after the one that was begun: {met})."
    )


if __name__ == "__main__":
    main()
