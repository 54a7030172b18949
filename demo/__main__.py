"""The main job, headless: photographs steer a generation in a real ComfyUI server.

`python dev.py demo`, or `python -m multi_ipadapter.demo` where ComfyUI's requirements are
installed and `COMFYUI_PATH` is set.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from .adapter import ABOUT, ADAPTER_FILE, write_adapter
from .client import ComfyClient, PromptError
from .photos import PHOTOGRAPHS, photograph_path
from .prompt import demo_prompt
from .server import ComfyServer, ServerError
from .sheet import Labelled, contact_sheet


class Case(NamedTuple):
    """One picture of the demo."""

    file: str
    label: str
    references: int
    weight: float


CASES = (
    Case("without.png", "lambda = 0: no references", 1, 0.0),
    Case("one.png", "lambda = 1, N = 1 (the first)", 1, 1.0),
    Case("four.png", "lambda = 1, N = 4", 4, 1.0),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python dev.py demo", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=Path("demo-output"), help="folder for the pictures"
    )
    output = parser.parse_args(arguments).output.absolute()
    # A kill from outside must not leave the server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run_demo(output)
    except (ServerError, PromptError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted", file=sys.stderr)
        return 130
    return 0


def run_demo(output: Path) -> None:
    """Start ComfyUI and write the pictures of `CASES` and a contact sheet to `output`."""
    print("References, from the package scikit-image:")
    for photograph in PHOTOGRAPHS:
        print(f"  {photograph.file}: {photograph.credit}")
    print(f"\n{ABOUT}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="multi_ipadapter_demo_") as folder:
        write_adapter(Path(folder) / "models" / "ipadapter" / ADAPTER_FILE)
        # The demo's models are so small that further threads mostly wait for each other.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        print("Starting ComfyUI ...", end=" ", flush=True)
        begin = time.monotonic()
        with ComfyServer(Path(folder)) as server:
            print(f"ready after {time.monotonic() - begin:.0f} s at {server.client.url}")
            written = draw(server.client, output)
    print(f"\n{ABOUT}\n\nWritten:", *written, sep="\n  ")


def draw(client: ComfyClient, output: Path, **settings: int) -> list[Path]:
    """Write the pictures of `CASES` and a contact sheet; returns their paths.

    `settings` are those of `demo_prompt`. The adapter's file must be where the server looks.
    """
    output.mkdir(parents=True, exist_ok=True)
    names = [client.upload(photograph_path(photo)) for photo in PHOTOGRAPHS]
    print(f"Uploaded {len(names)} photographs")
    for case in CASES:
        print(f"\n{case.label}", flush=True)
        prompt = demo_prompt(names[: case.references], case.weight, **settings)
        (picture,) = client.pictures(client.run(prompt, partial(_show, prompt)))
        (output / case.file).write_bytes(picture)
    write_sheet(output)
    return [output / name for name in (*(case.file for case in CASES), "sheet.png")]


def _show(prompt: dict[str, Any], node: str, step: int, steps: int) -> None:
    name = prompt[node]["class_type"]
    if not steps:
        print(f"  {name}", flush=True)
    elif name == "KSampler":
        # On a terminal, one line that counts; in a log, one line per step.
        last = "\r" if sys.stdout.isatty() and step < steps else "\n"
        print(f"  {name}: step {step} of {steps}", end=last, flush=True)


def write_sheet(output: Path) -> None:
    """Contact sheet of the pictures in `output`."""
    references = [
        Labelled(Image.open(photograph_path(photo)), Path(photo.file).stem) for photo in PHOTOGRAPHS
    ]
    results = [Labelled(Image.open(output / case.file), case.label) for case in CASES]
    credits = [f"{Path(photo.file).stem}: {photo.credit}." for photo in PHOTOGRAPHS]
    notes = [ABOUT, " ".join(credits[:2]), " ".join(credits[2:])]
    contact_sheet(references, results, notes).save(output / "sheet.png")


if __name__ == "__main__":
    sys.exit(main())
