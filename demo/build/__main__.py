"""Trains the demo world's models from scratch, stage by stage.

`python -m multi_ipadapter.demo.build --folder FOLDER`. Every stage goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ...runs.comfyui import prepare_comfyui

# glibc gives large blocks back to the kernel after each step and then waits for new ones.
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_TOP_PAD_": str(1 << 28),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    if sys.platform == "linux" and not _MALLOC.keys() <= os.environ.keys():
        os.execve(sys.executable, sys.orig_argv, os.environ | _MALLOC)
    parser = argparse.ArgumentParser(
        prog="python -m multi_ipadapter.demo.build", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--folder", type=Path, required=True, help="for pictures and checkpoints")
    parser.add_argument("stages", nargs="*", help="default: all that are not done, in order")
    options = parser.parse_args(arguments)
    prepare_comfyui()
    from .stages import STAGES

    for name in options.stages or STAGES:
        print(f"{name}:", flush=True)
        begin = time.monotonic()
        STAGES[name](options.folder.absolute())
        print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
