"""The state of a run on disk: one safetensors file per checkpoint, written whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..files.tensors import read_tensors, write_safetensors

METADATA_KEY = "multi_ipadapter_training"
# What a run's fingerprints, which say nothing to a reader, stand for.
_CHANGED = {
    "data": "the pictures of the dataset have changed",
    "captions": "the captions have changed",
    "encoders": "another VAE or image encoder",
    "model": "another model, or other LoRAs on it",
    "text_encoder": "another text encoder, or another of its layers",
}
_NAME = re.compile(r"^state-(\d{8})\.safetensors$")


class MayChange(NamedTuple):
    """Settings that may differ when a run is resumed; of the first ones, a change is told."""

    told: tuple[str, ...]
    free: tuple[str, ...]


class OtherRunError(ValueError):
    """A state belongs to a run with other settings or data."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Say in an OSError which file of a run could not be written, and what is left."""
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path.name} could not be written ({error.strerror or error}). Free space on the "
            f"disk, or make the folder writable, and resume; {what_is_left(path.parent)}",
        ) from error


def what_is_left(folder: Path | None) -> str:
    """For the message of an error: from where the run can go on."""
    kept = checkpoints(folder) if folder else []
    return (
        f"the last checkpoint, {kept[-1].name}, is intact" if kept else "no checkpoint exists yet"
    )


@dataclass
class Progress:
    """What a run knows besides its tensors; every random draw follows from `step` and the seed."""

    step: int = 0
    best: float = float("inf")
    scaler: Mapping[str, Any] = field(default_factory=dict)


def checkpoint_path(folder: Path, step: int) -> Path:
    """File of a step's state."""
    return folder / f"state-{step:08}.safetensors"


def checkpoints(folder: Path) -> list[Path]:
    """All states in a run's folder, oldest first."""
    return sorted(p for p in folder.glob("state-*.safetensors") if _NAME.match(p.name))


def save_state(
    folder: Path,
    fingerprint: Mapping[str, Any],
    progress: Progress,
    module: nn.Module,
    ema: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    keep: int,
) -> Path:
    """Write a state, then remove all but the last `keep`; `fingerprint` says which run it is.

    Raises:
        OSError: the disk is full, say; earlier states are intact.
    """
    tensors = {f"adapter.{k}": v for k, v in module.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in ema.items()}
    values: dict[str, Any] = {}
    for number, entry in optimizer.state_dict()["state"].items():
        for name, value in entry.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{number}.{name}"] = value
            else:
                values[f"{number}.{name}"] = value
    metadata = {
        "run": dict(fingerprint),
        "progress": progress.__dict__ | {"scaler": dict(progress.scaler)},
        "optimizer": values,
    }
    path = checkpoint_path(folder, progress.step)
    with disk_errors(path):
        write_safetensors(path, tensors, {METADATA_KEY: json.dumps(metadata)})
    for old in checkpoints(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def load_state(
    path: Path,
    fingerprint: Mapping[str, Any],
    may_change: MayChange,
    module: nn.Module,
    ema: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> tuple[Progress, list[str]]:
    """Put a state back; also returns which settings differ in a way worth telling.

    Raises:
        ValueError: the file is damaged.
        OtherRunError: it belongs to another run.
    """
    try:
        tensors, metadata = read_tensors(path)
    except ValueError as error:
        raise ValueError(f"{path.name} is damaged or was cut off.") from error
    if METADATA_KEY not in metadata:
        raise ValueError(f"{path.name} is not a training state.")
    saved = json.loads(metadata[METADATA_KEY])
    changes = _check_run(path, saved["run"], fingerprint, may_change)
    module.load_state_dict(_part(tensors, "adapter."))
    with torch.no_grad():
        for name, value in _part(tensors, "ema.").items():
            ema[name].copy_(value)
    optimizer.load_state_dict(
        {
            "state": _optimizer_entries(tensors, saved["optimizer"]),
            "param_groups": optimizer.state_dict()["param_groups"],
        }
    )
    return Progress(**saved["progress"]), changes


def check_other_run(folder: Path, fingerprint: Mapping[str, Any], may_change: MayChange) -> None:
    """Look only at whose states a folder holds; says nothing where none can be read.

    Raises:
        OtherRunError: they belong to another run.
    """
    for path in reversed(checkpoints(folder)):
        try:
            with safe_open(path, framework="pt") as file:
                saved = json.loads((file.metadata() or {})[METADATA_KEY])
        except (SafetensorError, OSError, KeyError):
            continue
        _check_run(path, saved["run"], fingerprint, may_change)
        return


def _optimizer_entries(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> dict:
    entries: dict[int, dict[str, Any]] = {}
    for key, value in [*_part(tensors, "optimizer.").items(), *values.items()]:
        number, _, name = key.partition(".")
        entries.setdefault(int(number), {})[name] = value
    return entries


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _flat(run: Mapping[str, Any]) -> dict[str, Any]:
    """Settings one by one, so that a message names only those that differ."""
    return {k: v for k, v in run.items() if k != "config"} | dict(run.get("config") or {})


def _check_run(
    path: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any], may_change: MayChange
) -> list[str]:
    """Settings that do not say which run it is may differ; those worth telling are returned."""
    saved, wanted = _flat(saved), _flat(json.loads(json.dumps(dict(wanted))))
    differing = sorted(k for k in {*saved, *wanted} if saved.get(k) != wanted.get(k))
    told = {k: f"{k}: {saved.get(k)!r} there, {wanted.get(k)!r} now" for k in differing}
    changed = {k: _CHANGED.get(k, text) for k, text in told.items()}
    other = [text for k, text in changed.items() if k not in (*may_change.told, *may_change.free)]
    if other:
        raise OtherRunError(
            f"{path.parent.name}/{path.name} belongs to another run ({'; '.join(other)}). Resume "
            "with the same settings and data, or give this run another name and so a new folder "
            "(on the command line: output). To go on from what was learned, choose its adapter "
            "file in start_from."
        )
    return [changed[name] for name in may_change.told if name in changed]
