"""Finds ComfyUI for the command line and makes it importable; the rest of training/ needs none."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch


def find_comfyui() -> Path:
    """ComfyUI's folder: COMFYUI_PATH, or the one in whose custom_nodes this pack lies.

    Raises:
        ValueError: neither is one.
    """
    named = os.environ.get("COMFYUI_PATH")
    above = Path(__file__).absolute().parents
    candidates = [Path(named)] if named else list(above[3:4])
    for candidate in candidates:
        if (candidate / "comfy" / "model_management.py").is_file():
            return candidate
    raise ValueError(
        f"ComfyUI is not found{f' at {named}' if named else ''}. Set COMFYUI_PATH to its folder, "
        "or put this pack into its custom_nodes folder."
    )


def prepare_comfyui() -> None:
    """Make ComfyUI importable, on the CPU where there is no other device.

    Raises:
        ValueError: it is not found.
    """
    sys.path.insert(0, str(find_comfyui()))
    from comfy.cli_args import args  # noqa: TID251

    if not torch.accelerator.is_available():
        args.cpu = True  # before ComfyUI looks for a device
