"""Aesthetic score: CLIP's picture features -> a number of about 1..10, by LAION's linear heads."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import in_full_precision
from .weights import file_hash, read_weights, refuse_mismatch

_CHAINS = {
    "aesthetic-v1": ("",),
    "aesthetic-v2": tuple(f"layers.{number}." for number in (0, 2, 4, 6, 7)),
}


class Aesthetic:
    """One linear layer (V1), or five of them without activations between (V2)."""

    def __init__(self, name: str, layers: list[tuple[Tensor, Tensor]], weights: str):
        self.name, self.weights, self.layers = name, weights, layers
        self.width = layers[0][0].shape[1]

    @in_full_precision
    def score(self, image_features: Tensor) -> Tensor:
        """CLIP's projected features [B, width], of any length -> scores float32 [B].

        Raises:
            ValueError: features of another CLIP model.
        """
        if image_features.ndim != 2 or image_features.shape[1] != self.width:
            model = {768: " (CLIP ViT-L/14)", 512: " (CLIP ViT-B/32)"}.get(self.width, "")
            raise ValueError(
                f"Got features of shape {list(image_features.shape)}; {self.name} was trained on "
                f"[B, {self.width}]{model}. Use the features of that model."
            )
        x = F.normalize(image_features.to(self.layers[0][0].device).float(), dim=1)
        for weight, bias in self.layers:
            x = F.linear(x, weight, bias)
        return x.squeeze(1)


def load_aesthetic(path: str | Path, device: str | torch.device = "cpu") -> Aesthetic:
    """LAION's aesthetic predictor V1 or V2 (the linear one), whichever the file holds.

    Raises:
        ValueError: another network's file, a damaged one, or layers that do not follow.
        FileNotFoundError: there is no such file.
    """
    tensors = read_weights(path)
    name = "aesthetic-v1" if "weight" in tensors else "aesthetic-v2"
    keys = {prefix + kind for prefix in _CHAINS[name] for kind in ("weight", "bias")}
    expected = "a linear aesthetic predictor of LAION's"
    refuse_mismatch(path, expected, keys - tensors.keys(), tensors.keys() - keys)
    layers = [(tensors[p + "weight"], tensors[p + "bias"]) for p in _CHAINS[name]]
    _check_chain(layers, path)
    return Aesthetic(name, [(w.to(device), b.to(device)) for w, b in layers], file_hash(path))


def _check_chain(layers: list[tuple[Tensor, Tensor]], path: str | Path) -> None:
    fits = all(w.ndim == 2 and b.shape == w.shape[:1] for w, b in layers)
    widths = [w.shape[1] for w, _ in layers[1:]] + [1] if fits else []
    if not fits or [w.shape[0] for w, _ in layers] != widths:
        raise ValueError(
            f"{Path(path).name} holds layers of shapes {[list(w.shape) for w, _ in layers]}, "
            "which do not lead to one score. Choose another file."
        )
