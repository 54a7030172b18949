"""A transformers model from tensors that were read safely, complete or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from .weights import refuse_mismatch

FILES = ("model.safetensors", "pytorch_model.bin")


def weights_file(path: str | Path) -> Path:
    """The path itself, or the weights file in it when it is a folder.

    Raises:
        FileNotFoundError: the folder holds none.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    for name in FILES:
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(f"The folder {path.name} holds no {' or '.join(FILES)}; add one.")


def build(
    model_class: type[PreTrainedModel],
    config: PretrainedConfig,
    tensors: Mapping[str, Tensor],
    path: Path,
    expected: str,
    **options,
) -> Any:
    """The `model_class` in float32 on the CPU, evaluation mode; `options` go to its constructor.

    Key names of files and of modules differ between versions of transformers, which translates
    the one to the other; so this does not fill the module itself.

    Raises:
        ValueError: the tensors are not exactly those of this model.
    """
    with _quiet():
        loaded: Any = model_class.from_pretrained(  # its annotation knows no loading info
            None,
            config=config,
            state_dict=dict(tensors),
            torch_dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are refused below, in the same words everywhere
            output_loading_info=True,
            **options,
        )
    model, info = loaded
    refuse_mismatch(path, expected, set(info["missing_keys"]), set(info["unexpected_keys"]))
    for key, got, wanted in info["mismatched_keys"]:
        raise ValueError(
            f"{path.name} is not {expected}: {key} has shape {list(got)}, expected "
            f"{list(wanted)}. Choose another file."
        )
    return model.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar and no report; what is wrong with a file is told in our own words."""
    bar, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
