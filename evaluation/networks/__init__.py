"""Feature networks: pictures in, features out; each from files that the user supplies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class FeatureNetwork(Protocol):
    """What turns pictures into features, and everything that its features depend on."""

    @property
    def name(self) -> str:
        """The architecture, such as "fid-inception"."""
        ...

    @property
    def weights(self) -> str:
        """sha256 of the weights file; of two files, such as its config.json, "+" between."""
        ...

    @property
    def resize(self) -> str:
        """How pictures are brought to the network's size."""
        ...

    @property
    def outputs(self) -> Mapping[str, int]:
        """Width of each output, by its name."""
        ...

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """uint8 [B, 3, H, W] on any device -> each output as float32 [B, width]."""
        ...
