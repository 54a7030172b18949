"""The main job, headless: four portraits steer a generation in a real ComfyUI server.

`python dev.py demo`, or `python -m multi_ipadapter.demo` where ComfyUI's requirements are
installed and `COMFYUI_PATH` is set.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from .client import ComfyClient, PromptError
from .people import clear_view, portrait, write_references
from .prompt import ADAPTER_FILE, WEIGHT, demo_prompt
from .server import ComfyServer, ServerError
from .sheet import Shown, demo_sheet
from .world import WEIGHTS_FOLDER

REFERENCES = 4
IDENTITY, SEED = 0, 1
ABOUT = (
    "A person whom the models have never seen. Each reference hides a part; together they tell "
    "nearly all."
)


class Case(NamedTuple):
    """One picture of the demo."""

    file: str
    label: str
    references: int
    weight: float


CASES = (
    Case("without.png", "no reference (lambda = 0)", 1, 0.0),
    Case("one.png", "N = 1, the first reference", 1, WEIGHT),
    Case("four.png", "N = 4 references", REFERENCES, WEIGHT),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python dev.py demo", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=Path("demo-output"), help="folder for the pictures"
    )
    parser.add_argument(
        "--identity",
        type=int,
        default=IDENTITY,
        metavar="NUMBER",
        help="who: 0 to 99999, each another person whom the models do not know",
    )
    options = parser.parse_args(arguments)
    if not 0 <= options.identity < 100_000:
        parser.error(f"got --identity {options.identity}; expected 0 to 99999")
    # A kill from outside must not leave the server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run_demo(options.output.absolute(), options.identity)
    except (ServerError, PromptError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted", file=sys.stderr)
        return 130
    return 0


def run_demo(output: Path, identity: int = IDENTITY) -> None:
    """Start ComfyUI and write the references, the pictures of `CASES` and a sheet to `output`."""
    print(ABOUT, flush=True)
    with tempfile.TemporaryDirectory(prefix="multi_ipadapter_demo_") as folder:
        adapters = Path(folder) / "models" / "ipadapter"
        adapters.mkdir(parents=True)
        shutil.copyfile(WEIGHTS_FOLDER / "adapter.safetensors", adapters / ADAPTER_FILE)
        # The demo's models are so small that further threads mostly wait for each other.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        print("Starting ComfyUI ...", end=" ", flush=True)
        begin = time.monotonic()
        with ComfyServer(Path(folder)) as server:
            print(f"ready after {time.monotonic() - begin:.0f} s at {server.client.url}")
            written = draw(server.client, output, identity)
    print("\nWritten:", *written, sep="\n  ")


def draw(client: ComfyClient, output: Path, identity: int = IDENTITY, **settings: int) -> list:
    """Write the references, the pictures of `CASES` and a sheet; returns their paths.

    `settings` are those of `demo_prompt`. The adapter's file must be where the server looks.
    """
    references = write_references(output, identity, REFERENCES)
    wanted = portrait(identity, clear_view(identity))
    for k, path in enumerate(references):
        print(f"{path.name} hides: {', '.join(portrait(identity, k).hidden)}")
    print(f'The prompt: "{wanted.caption}"')
    names = [client.upload(path) for path in references]
    for case in CASES:
        print(f"\n{case.label}", flush=True)
        told = {"text": wanted.caption, "seed": SEED} | settings
        prompt = demo_prompt(names[: case.references], case.weight, **told)
        (picture,) = client.pictures(client.run(prompt, partial(_show, prompt)))
        (output / case.file).write_bytes(picture)
    wanted.picture.save(output / "truth.png")
    write_sheet(output, identity)
    files = (*(case.file for case in CASES), "truth.png", "sheet.png")
    return [*references, *(output / name for name in files)]


def _show(prompt: dict[str, Any], node: str, step: int, steps: int) -> None:
    name = prompt[node]["class_type"]
    if not steps:
        print(f"  {name}", flush=True)
    elif name == "KSampler":
        # On a terminal, one line that counts; in a log, one line per step.
        last = "\r" if sys.stdout.isatty() and step < steps else "\n"
        print(f"  {name}: step {step} of {steps}", end=last, flush=True)


def write_sheet(output: Path, identity: int) -> None:
    """One sheet of the pictures in `output`, with scores."""
    from .verdict import verdicts  # after the server is up: it takes seconds to import

    view = clear_view(identity)
    wanted = portrait(identity, view)
    results = [(case.label, Image.open(output / case.file).convert("RGB")) for case in CASES]
    results.append(("the truth, never shown to it", wanted.picture))
    told = verdicts([picture for _, picture in results], identity, view)
    references = [
        Shown(portrait(identity, k).picture, "hides " + ", ".join(portrait(identity, k).hidden))
        for k in range(REFERENCES)
    ]
    shown = [
        Shown(picture, f"{label}\n{verdict}")
        for (label, picture), verdict in zip(results, told, strict=True)
    ]
    for one in shown:
        print(one.label.replace("\n", ": "))
    demo_sheet(references, shown, wanted.caption, ABOUT).save(output / "sheet.png")


if __name__ == "__main__":
    sys.exit(main())
