"""Models -> short texts by which the same weights are known again."""

from __future__ import annotations

import hashlib
import weakref
from typing import Any

import torch
from torch import Tensor, nn

_hashes: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()


def tensors_hash(module: nn.Module) -> str:
    """sha256 over the names, types and values of all tensors; remembered."""
    if module not in _hashes:
        digest = hashlib.sha256()
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        _hashes[module] = digest.hexdigest()
    return _hashes[module]


def fingerprint(*models: nn.Module) -> str:
    """Digest of models: names, shapes and the first values of all their tensors."""
    digest = hashlib.sha256()
    for module in models:
        for name, tensor in module.state_dict().items():
            digest.update(name.encode() + fingerprint_tensor(tensor))
    return digest.hexdigest()[:16]


def fingerprint_tensor(tensor: Tensor) -> bytes:
    """Its shape and first values, rounded: ComfyUI holds a file's weights in various precisions."""
    values = tensor.flatten()[:16].to("cpu", torch.float32).bfloat16()
    return f"{tuple(tensor.shape)}".encode() + values.view(torch.int16).numpy().tobytes()


def patched_fingerprint(patcher: Any, module: nn.Module) -> str:
    """Fingerprint of a module with its LoRAs and their strengths."""
    if not patcher.patches:
        return fingerprint(module)
    digest = hashlib.sha256(fingerprint(module).encode())
    for key in sorted(patcher.patches, key=str):
        _add(digest, str(key))
        _add(digest, patcher.patches[key])
    return digest.hexdigest()[:16]


def _add(digest: Any, value: Any) -> None:
    """Tensors by shape and first values; what is neither plain nor a container by its type."""
    if isinstance(value, Tensor):
        digest.update(fingerprint_tensor(value))
    elif isinstance(value, list | tuple):
        for part in value:
            _add(digest, part)
    elif isinstance(value, str | int | float | None):
        digest.update(f"{value!r};".encode())
    else:
        digest.update(type(value).__name__.encode())
        _add(digest, getattr(value, "weights", None))  # of core's weight adapters
