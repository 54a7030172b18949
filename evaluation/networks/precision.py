"""How feature networks run: in full float32, whatever the caller or other packs have set."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def _no_tf32() -> Iterator[None]:
    """Only the settings of PyTorch >= 2.9 where it has them: it refuses to mix the two kinds."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    settings: list[tuple[object, str, object]]
    settings = [(cudnn, "allow_tf32", False), (matmul, "allow_tf32", False)]
    if hasattr(cudnn, "conv") and hasattr(cudnn.conv, "fp32_precision"):
        mkldnn: Any = torch.backends.mkldnn
        operations = (matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv)
        settings = [(operation, "fp32_precision", "ieee") for operation in operations]
    before = [getattr(owner, name) for owner, name, _ in settings]
    try:
        for owner, name, value in settings:
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name, _), value in zip(settings, before, strict=True):
            setattr(owner, name, value)


@contextmanager
def full_precision() -> Iterator[None]:
    """No gradients, no autocast, no TensorFloat-32, so that CPU and GPU give the same numbers."""
    with _no_tf32(), torch.no_grad():  # noqa: SIM117
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield


def in_full_precision(function: Callable) -> Callable:
    """`function`, run inside `full_precision`."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        with full_precision():
            return function(*args, **kwargs)

    return wrapped
