"""First step of every benchmark: find ComfyUI and tell it the device before it looks for one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..runs.comfyui import put_on_path

THREADS = 1  # on a CPU: processor time of one thread compares best


def prepare(cpu: bool) -> None:
    """Make `import comfy` work; with `cpu`, ComfyUI runs on the CPU and PyTorch on one thread."""
    path = os.environ.get("COMFYUI_PATH", "")
    if not path:
        sys.exit(
            "COMFYUI_PATH is not set. Run 'python dev.py bench sampling', or set it to a ComfyUI "
            "checkout."
        )
    put_on_path(Path(path))
    from comfy.cli_args import args

    args.cpu = cpu
    if cpu:
        import torch

        torch.set_num_threads(THREADS)
