"""LPIPS: two pictures -> their perceptual distance (arXiv 1801.03924, version 0.1)."""

from __future__ import annotations

from functools import reduce
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..resize import check_pixels
from .precision import in_full_precision
from .weights import file_hash, load_into, read_weights, refuse_mismatch

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)

# Layers under torchvision's numbers: channels of a convolution, "pool"; ReLU follows each
# convolution, and the outputs of the ReLUs in the second table are compared.
_VGG: tuple[int | str, ...] = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool")
_VGG += (512, 512, 512, "pool", 512, 512, 512)
_VGG_TAPS = (3, 8, 15, 22, 29)
_ALEX_TAPS = (1, 4, 7, 9, 11)
_SMALLEST = {"vgg": 16, "alex": 31}  # below it, no pixel reaches the last layer


def _vgg() -> nn.Sequential:
    layers: list[nn.Module] = []
    inputs = 3
    for spec in _VGG:
        if isinstance(spec, int):
            layers += [nn.Conv2d(inputs, spec, 3, padding=1), nn.ReLU()]
            inputs = spec
        else:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def _alex() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    )


class Lpips:
    """A backbone with its linear heads; it compares pictures at the size that they have."""

    resize = "none"

    def __init__(self, kind: str, backbone: nn.Sequential, heads: list[Tensor], weights: str):
        self.name, self.weights = f"lpips-{kind}", weights
        self.backbone, self.heads = backbone, heads
        self.taps = _VGG_TAPS if kind == "vgg" else _ALEX_TAPS
        self.smallest = _SMALLEST[kind]

    @in_full_precision
    def features(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """uint8 [B, 3, H, W] -> five float32 maps [B, C, h, w] of unit norm over the channels.

        They serve for any number of comparisons by `between`.

        Raises:
            ValueError: no uint8 pictures, or too small ones for the backbone.
        """
        check_pixels(pixels)
        if min(pixels.shape[2:]) < self.smallest:
            raise ValueError(
                f"Got pictures of {pixels.shape[3]} x {pixels.shape[2]} pixels; {self.name} needs "
                f"at least {self.smallest} on each side. Enlarge them first."
            )
        x = pixels.to(self.heads[0].device).float() / 127.5 - 1
        shift, scale = (x.new_tensor(v).view(3, 1, 1) for v in (_SHIFT, _SCALE))
        x, maps = (x - shift) / scale, []
        for number, layer in enumerate(self.backbone):
            x = layer(x)
            if number in self.taps:
                maps.append(x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt())
        return tuple(maps)

    @in_full_precision
    def between(self, a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Tensor:
        """Distances float32 [B] of two results of `features`; one of them may have one row.

        Raises:
            ValueError: they come from pictures of different sizes.
        """
        if a[0].shape[2:] != b[0].shape[2:]:
            raise ValueError(
                "Got pictures of different sizes; LPIPS compares pixel by pixel. Bring them to "
                "one size first."
            )
        layers = zip(self.heads, a, b, strict=True)
        distances = [F.conv2d((x - y).square(), head).mean((1, 2, 3)) for head, x, y in layers]
        return reduce(torch.add, distances)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] twice, of the same size -> distances float32 [B].

        Raises:
            ValueError: no uint8 pictures, too small ones, or different sizes.
        """
        if a.shape[2:] != b.shape[2:]:
            raise ValueError(
                f"Got pictures of {list(a.shape[2:])} and {list(b.shape[2:])} (height, width); "
                "LPIPS compares pixel by pixel. Bring them to one size first."
            )
        return self.between(self.features(a), self.features(b))


def load_lpips(
    backbone_path: str | Path, heads_path: str | Path, device: str | torch.device = "cpu"
) -> Lpips:
    """LPIPS of torchvision's VGG16 or AlexNet file, whichever it is, and the authors' heads.

    Raises:
        ValueError: another network's file, a damaged one, or heads of the other backbone.
        FileNotFoundError: there is no such file.
    """
    tensors = {k: v for k, v in read_weights(backbone_path).items() if k.startswith("features.")}
    first = tensors.get("features.0.weight")
    kind = "alex" if first is not None and first.shape[-1] == 11 else "vgg"
    backbone = _vgg() if kind == "vgg" else _alex()
    holder = nn.ModuleDict({"features": backbone})
    load_into(holder, tensors, backbone_path, "torchvision's VGG16 or AlexNet")
    backbone.to(device).eval()
    heads = _read_heads(heads_path, kind, backbone)
    weights = f"{file_hash(backbone_path)}+{file_hash(heads_path)}"
    return Lpips(kind, backbone, [head.to(device) for head in heads], weights)


def _read_heads(path: str | Path, kind: str, backbone: nn.Sequential) -> list[Tensor]:
    """Five 1 x 1 convolutions, each [1, C, 1, 1]."""
    tensors = read_weights(path)
    keys = [f"lin{number}.model.1.weight" for number in range(5)]
    expected = f"the LPIPS heads of {kind}"
    refuse_mismatch(path, expected, set(keys) - tensors.keys(), tensors.keys() - set(keys))
    taps = _VGG_TAPS if kind == "vgg" else _ALEX_TAPS
    for key, tap in zip(keys, taps, strict=True):
        channels = backbone[tap - 1].out_channels
        if tensors[key].shape != (1, channels, 1, 1):
            raise ValueError(
                f"{Path(path).name} does not fit the backbone, {kind}: {key} has shape "
                f"{list(tensors[key].shape)}, expected {[1, channels, 1, 1]}. Choose the heads "
                "of the same backbone."
            )
    return [tensors[key] for key in keys]
