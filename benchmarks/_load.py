"""Load of an SDXL-size adapter file: seconds, random numbers, memory; beside the usual way."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import comfy.utils
import folder_paths
import torch
from torch import nn

from ..models.adapter import MultiIPAdapter
from ..models.checkpoint import detect_config, save_adapter
from ..nodes.steering.load import FOLDER, LoadMultiIPAdapter
from ._models import plus_adapter, sdxl_unet
from ._timing import Quiet, Summary, interleaved, seconds, summarise

OURS, RIVAL = "Load Multi-IPAdapter", "default-initialised layers"


class LoadResult(NamedTuple):
    """One line of the table: seconds, MB (10^6 bytes), and whether the generator was used."""

    way: str
    seconds: Summary
    read_seconds: Summary
    draws_random: bool
    peak_mb: float
    read_peak_mb: float


class LoadReport(NamedTuple):
    """The table and the file's size in MB."""

    file_mb: float
    results: list[LoadResult]


def load_ours(path: Path) -> nn.Module:
    """By the node."""
    folder_paths.add_model_folder_path(FOLDER, str(path.parent))
    return LoadMultiIPAdapter.execute(path.name).args[0].adapter


def load_rival(path: Path) -> nn.Module:
    """As public nodes do: layers with PyTorch's default initialisation, whose weights are replaced.

    The projection's parameters are copied into, the others are exchanged one by one.
    """
    tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
    config = detect_config(tensors)
    adapter = MultiIPAdapter(config)
    own = {k.removeprefix("image_proj."): v for k, v in tensors.items() if k[:11] == "image_proj."}
    adapter.image_proj.load_state_dict(own)
    for name, parameter in adapter.named_parameters():
        if not name.startswith("image_proj."):
            parameter.data = tensors[name]
    return adapter


WAYS: dict[str, Callable[[Path], nn.Module]] = {OURS: load_ours, RIVAL: load_rival}


def measure(rounds: int, quiet: Quiet) -> LoadReport:
    """Write a file, load it by both ways in turn, remove it."""
    model = sdxl_unet()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plus_sdxl.safetensors"
        save_adapter(plus_adapter(model, torch.float16).adapter, path)
        loads = interleaved(
            {w: lambda w=w: seconds(lambda: WAYS[w](path)) for w in WAYS}, rounds, quiet
        )
        reads = interleaved(
            {w: lambda w=w: seconds(lambda: read(WAYS[w](path))) for w in WAYS}, rounds, quiet
        )
        memory = {way: _in_own_process(way, path) for way in WAYS}
        return LoadReport(
            path.stat().st_size / 1e6,
            [LoadResult(w, summarise(loads[w]), summarise(reads[w]), **memory[w]) for w in WAYS],
        )


def read(adapter: nn.Module) -> None:
    """Read every weight once: those of a memory-mapped file come into memory only now."""
    for parameter in adapter.parameters():
        parameter.detach().clone()


def _in_own_process(way: str, path: Path) -> dict:
    module = f"{__package__}._load_memory"
    command = [sys.executable, "-m", module, way, str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])
