"""Finds ComfyUI for the command lines and makes it importable."""

from __future__ import annotations

import importlib
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


def put_on_path(comfyui: Path) -> None:
    """Make ComfyUI's modules importable.

    `utils` is imported at once, as its main.py does: from there on, nodes.py of ComfyUI 0.18 puts
    the folder `comfy`, which has a utils.py too, before it.
    """
    sys.path.insert(0, str(comfyui))
    importlib.import_module("utils")


def prepare_comfyui() -> None:
    """Make ComfyUI importable, on the CPU where there is no other device.

    Raises:
        ValueError: it is not found.
    """
    put_on_path(find_comfyui())
    from comfy.cli_args import args  # noqa: TID251

    if not torch.accelerator.is_available():
        args.cpu = True  # before ComfyUI looks for a device
