"""What cannot be trained is refused here, before anything is encoded; what is doubtful is told."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from pathlib import Path

from ..files.folder import Skipped
from ..models.adapter import MultiIPAdapterConfig
from ..models.projection import HIDDEN
from ..pictures.index import PictureIndex
from ..runs.processes import OneProcess
from ..runs.state import checkpoints
from .config import TrainingConfig
from .initial import leaves_public_shapes
from .job import Job

log = logging.getLogger("MultiIPAdapter")

_SHOWN = 20


def check_settings(
    config: TrainingConfig, folder: Path, resume: bool, processes: OneProcess
) -> None:
    """Refuse what this machine or the run's folder does not permit.

    Raises:
        ValueError: bitsandbytes is missing, rows that cannot be shared out, a run that must not be
            resumed.
    """
    check_optimizer(config)
    check_shares(config, processes)
    if not resume:
        check_new(folder)


def check_optimizer(config: TrainingConfig) -> None:
    """Raises ValueError where the optimizer's package is missing, or cannot be imported."""
    if config.optimizer != "adamw8bit":
        return
    try:
        importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise ValueError(
            "optimizer = adamw8bit needs bitsandbytes: pip install bitsandbytes, or use adamw."
        ) from error


def check_shares(config: TrainingConfig, processes: OneProcess) -> None:
    """Raises ValueError where the processes cannot get the same number of rows each."""
    if config.batch_size % processes.count:
        raise ValueError(
            f"Got batch_size {config.batch_size} for {processes.count} processes; expected a "
            "multiple of their number."
        )


def check_new(folder: Path) -> None:
    """Raises ValueError where a folder holds a run, which must not be resumed."""
    if checkpoints(folder):
        raise ValueError(
            f"The folder {folder.name} holds a run already. Resume it, or choose another name."
        )


def tell_doubts(index: PictureIndex, job: Job, adapter: MultiIPAdapterConfig) -> None:
    """Log which settings do not do what they seem to."""
    config, kind = job.run, adapter.projection.kind
    if config.start_from and config.projection != kind:
        log.warning(
            "projection = %s has no effect: the file to start from is %s, and is kept so.",
            config.projection,
            kind,
        )
    if config.masked_loss and not index.store.has_masks:
        log.warning("masked_loss has no effect: no picture of the dataset has a mask.")
    if job.data.int8 and HIDDEN not in adapter.projection.inputs:
        log.warning("int8 has no effect: a %s projection reads no hidden states.", kind)
    if reasons := leaves_public_shapes(adapter):
        log.warning(
            "Only this pack is sure to load the file, for it has %s.", " and ".join(reasons)
        )


def tell_skipped(skipped: Sequence[Skipped]) -> None:
    """Log the pictures that are left out, with the reasons."""
    if skipped:
        lines = [str(entry) for entry in skipped[:_SHOWN]]
        lines += ["..."] if len(skipped) > _SHOWN else []
        log.warning("Left out of the dataset: %d\n  %s", len(skipped), "\n  ".join(lines))
