"""FID-Inception: pictures -> 2,048 pooled features and 1,008 logits, for FID, KID and IS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..resize import check_mode, resize_for_inception
from .precision import in_full_precision
from .weights import file_hash, load_into, read_weights

POOL, CLASSES = 2048, 1008


@dataclass(frozen=True)
class Conv:
    """One convolution of a branch; those of stride 2 do not pad."""

    channels: int
    kernel: int | tuple[int, int]
    stride: int = 1


# A branch is a chain of convolutions; a pair at its end works on the same input, side by side.
Branch = tuple[Conv | tuple[Conv, Conv], ...]


class _Convolution(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, spec: Conv, pad: bool = True):
        super().__init__()
        kernel = spec.kernel if isinstance(spec.kernel, tuple) else (spec.kernel, spec.kernel)
        padding = (kernel[0] // 2, kernel[1] // 2) if pad and spec.stride == 1 else (0, 0)
        self.conv = nn.Conv2d(inputs, spec.channels, kernel, spec.stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(spec.channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class _Block(nn.Module):
    """Branches side by side, joined over the channels; the last one pools before its chain."""

    def __init__(self, inputs: int, branches: Mapping[str, Branch], pool: str):
        super().__init__()
        self.pool = pool
        self.chains: list[list[tuple[str, ...]]] = []
        self.channels = 0
        for name, branch in branches.items():
            self.chains.append(self._add_chain(inputs, name, branch))
        if pool == "halve":
            self.channels += inputs

    def _add_chain(self, inputs: int, name: str, branch: Branch) -> list[tuple[str, ...]]:
        """Modules under the names of the public files: one has no number, pairs end in a, b."""
        chain: list[tuple[str, ...]] = []
        for number, step in enumerate(branch, start=1):
            specs = step if isinstance(step, tuple) else (step,)
            base = name if len(branch) == 1 else f"{name}_{number}"
            names = (base,) if len(specs) == 1 else (f"{base}a", f"{base}b")
            for key, spec in zip(names, specs, strict=True):
                self.add_module(key, _Convolution(inputs, spec))
            inputs = sum(spec.channels for spec in specs)
            chain.append(names)
        self.channels += inputs
        return chain

    def _run(self, chain: list[tuple[str, ...]], x: Tensor) -> Tensor:
        for names in chain:
            x = torch.cat([getattr(self, name)(x) for name in names], 1)
        return x

    def forward(self, x: Tensor) -> Tensor:  # [B, inputs, H, W] -> [B, channels, H or H/2, ..]
        if self.pool == "halve":
            parts = [self._run(chain, x) for chain in self.chains]
            return torch.cat([*parts, F.max_pool2d(x, 3, stride=2)], 1)
        *chains, last = self.chains
        parts = [self._run(chain, x) for chain in chains]
        if self.pool == "mean":  # unlike torchvision's, the padding does not count
            pooled = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        else:
            pooled = F.max_pool2d(x, 3, stride=1, padding=1)
        return torch.cat([*parts, self._run(last, pooled)], 1)


def _block_a(inputs: int, pooled: int) -> _Block:
    branches = {
        "branch1x1": (Conv(64, 1),),
        "branch5x5": (Conv(48, 1), Conv(64, 5)),
        "branch3x3dbl": (Conv(64, 1), Conv(96, 3), Conv(96, 3)),
        "branch_pool": (Conv(pooled, 1),),
    }
    return _Block(inputs, branches, "mean")


def _block_b(inputs: int) -> _Block:
    branches = {
        "branch3x3": (Conv(384, 3, 2),),
        "branch3x3dbl": (Conv(64, 1), Conv(96, 3), Conv(96, 3, 2)),
    }
    return _Block(inputs, branches, "halve")


def _block_c(inputs: int, middle: int) -> _Block:
    wide, tall, last = Conv(middle, (1, 7)), Conv(middle, (7, 1)), 192
    branches = {
        "branch1x1": (Conv(last, 1),),
        "branch7x7": (Conv(middle, 1), wide, Conv(last, (7, 1))),
        "branch7x7dbl": (Conv(middle, 1), tall, wide, tall, Conv(last, (1, 7))),
        "branch_pool": (Conv(last, 1),),
    }
    return _Block(inputs, branches, "mean")


def _block_d(inputs: int) -> _Block:
    branches = {
        "branch3x3": (Conv(192, 1), Conv(320, 3, 2)),
        "branch7x7x3": (Conv(192, 1), Conv(192, (1, 7)), Conv(192, (7, 1)), Conv(192, 3, 2)),
    }
    return _Block(inputs, branches, "halve")


def _block_e(inputs: int, pool: str) -> _Block:
    fork = (Conv(384, (1, 3)), Conv(384, (3, 1)))
    branches = {
        "branch1x1": (Conv(320, 1),),
        "branch3x3": (Conv(384, 1), fork),
        "branch3x3dbl": (Conv(448, 1), Conv(384, 3), fork),
        "branch_pool": (Conv(192, 1),),
    }
    return _Block(inputs, branches, pool)


class InceptionModule(nn.Module):
    """Inception v3 as ported from TensorFlow's 2015 graph (arXiv 1512.00567, 1706.08500).

    It differs from torchvision's in the number of classes, in mean pooling that leaves out the
    padding, and in the last block, which pools by the maximum.
    """

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = _Convolution(3, Conv(32, 3, 2))
        self.Conv2d_2a_3x3 = _Convolution(32, Conv(32, 3), pad=False)
        self.Conv2d_2b_3x3 = _Convolution(32, Conv(64, 3))
        self.Conv2d_3b_1x1 = _Convolution(64, Conv(80, 1))
        self.Conv2d_4a_3x3 = _Convolution(80, Conv(192, 3), pad=False)
        self.Mixed_5b = _block_a(192, 32)
        self.Mixed_5c = _block_a(256, 64)
        self.Mixed_5d = _block_a(288, 64)
        self.Mixed_6a = _block_b(288)
        self.Mixed_6b = _block_c(768, 128)
        self.Mixed_6c = _block_c(768, 160)
        self.Mixed_6d = _block_c(768, 160)
        self.Mixed_6e = _block_c(768, 192)
        self.Mixed_7a = _block_d(768)
        self.Mixed_7b = _block_e(1280, "mean")
        self.Mixed_7c = _block_e(POOL, "max")
        self.fc = nn.Linear(POOL, CLASSES)

    def forward(self, x: Tensor) -> Tensor:  # [B, 3, 299, 299] -> [B, 2048]
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)  # [B, 64, 73, 73]
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, stride=2)  # [B, 192, 35, 35]
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))  # [B, 288, 35, 35]
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))  # [B, 768, 17, 17]
        x = self.Mixed_6e(self.Mixed_6d(x))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  # [B, 2048, 8, 8]
        return x.mean((2, 3))


class Inception:
    """The feature network of FID, KID and the Inception Score; see `FeatureNetwork`."""

    name = "fid-inception"
    outputs = {"pool": POOL, "logits": CLASSES}

    def __init__(self, module: InceptionModule, weights: str, resize: str):
        self.module, self.weights, self.resize = module, weights, resize

    @in_full_precision
    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """uint8 [B, 3, H, W] -> "pool" [B, 2048] and "logits" [B, 1008], both float32.

        The logits leave out the bias, as those that published Inception Scores are made of.
        """
        device = self.module.fc.weight.device
        pool = self.module(resize_for_inception(pixels.to(device), self.resize))
        return {"pool": pool, "logits": pool @ self.module.fc.weight.T}


def load_inception(
    path: str | Path, resize: str = "torch-fidelity", device: str | torch.device = "cpu"
) -> Inception:
    """FID-Inception of one of the two public PyTorch files, or a safetensors copy.

    Raises:
        ValueError: another network's file, a damaged one, or an unknown resize mode.
        FileNotFoundError: there is no such file.
    """
    check_mode(resize)
    tensors = read_weights(path)
    if tensors.get("fc.weight", torch.empty(CLASSES)).shape[0] != CLASSES:
        raise ValueError(
            f"{Path(path).name} has {tensors['fc.weight'].shape[0]} classes; FID-Inception has "
            f"{CLASSES}. torchvision's Inception gives other scores; choose the FID weights."
        )
    module = InceptionModule()
    # One of the two public files leaves these counters out; nothing reads them.
    counters = {k: v for k, v in module.state_dict().items() if k.endswith("num_batches_tracked")}
    load_into(module, counters | tensors, path, "the weights of FID-Inception")
    return Inception(module.to(device).eval(), file_hash(path), resize)
