"""Settings of a training run: one frozen dataclass for the node, the command line and the file."""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass
from typing import Any, Literal

from ..models.aggregation import Aggregation
from ..runs.state import MayChange

# The first group shapes the steps to come, so a change is told; it is what the remedies for NaN and
# for too little memory ask for.
_TOLD: tuple[str, ...] = ("learning_rate", "projection_learning_rate", "clip_norm", "precision")
_TOLD += ("batch_size", "accumulation")
_FREE: tuple[str, ...] = ("steps", "log_every", "validate_every", "checkpoint_every")
_FREE += ("keep_checkpoints", "prefetch", "compile", "gradient_checkpointing")
_FREE += ("validation_identities", "validation_references")
MAY_CHANGE = MayChange(_TOLD, _FREE)


@dataclass(frozen=True)
class TrainingConfig:
    """Defaults follow the public IP-Adapter recipe where it has one (arXiv 2308.06721).

    Steps are optimizer steps; `batch_size` is the global batch of one micro-step, over all
    processes.
    """

    steps: int = 10_000
    batch_size: int = 8
    accumulation: int = 1
    seed: int = 0

    # The adapter
    start_from: str = ""  # an adapter file; empty: W'_k, W'_v start as W_k, W_v
    projection: Literal["linear", "resampler", "faceid"] = "resampler"
    num_tokens: int = 0  # per reference; 0: as in the public files of this projection
    resampler_dim: int = 0  # 0: as in the public files of the model's family
    resampler_depth: int = 4
    slots: int = 1
    aggregation: Aggregation = "learned"
    aggregator_heads: int = 1

    # The references of a row: a random subset of the identity's other pictures
    max_references: int = 8
    self_reconstruction: float = 0.0  # share of rows whose only reference is the target itself
    reference_dropout: float = 0.0  # chance of each reference but one to be left out

    # The objective
    drop_image: float = 0.05
    drop_text: float = 0.05
    drop_both: float = 0.05
    min_snr_gamma: float = 0.0  # 0: off
    noise_offset: float = 0.0
    masked_loss: float = 0.0  # chance of a row to count inside its mask only

    # The optimizer
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    learning_rate: float = 1e-4
    projection_learning_rate: float = 0.0  # 0: as learning_rate
    weight_decay: float = 0.01
    warmup: int = 500
    schedule: Literal["cosine", "constant"] = "cosine"
    final_learning_rate: float = 0.1  # share of the learning rate that cosine ends at
    clip_norm: float = 1.0
    ema_decay: float = 0.999  # 0: off

    # The machine
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    gradient_checkpointing: bool = False
    compile: bool = False
    prefetch: int = 2  # batches prepared ahead

    # Watching and keeping
    log_every: int = 10
    validate_every: int = 500  # 0: never
    validation_identities: int = 64
    validation_references: int = 4
    checkpoint_every: int = 500  # 0: only at the end
    keep_checkpoints: int = 3

    def __post_init__(self):
        check_fields(self)
        for name in ("steps", "batch_size", "accumulation", "max_references", "slots"):
            _require(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("log_every", "keep_checkpoints", "prefetch"):
            _require(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("resampler_depth", "aggregator_heads", "validation_references"):
            _require(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("drop_image", "drop_text", "drop_both", "masked_loss", "reference_dropout"):
            _require(self, name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        _require(self, "self_reconstruction", 0 <= self.self_reconstruction <= 1, "0 to 1")
        dropped = self.drop_image + self.drop_text + self.drop_both
        _require(self, "drop_image", dropped <= 1, "such that the three drop shares sum to <= 1")
        for name, kind in typing.get_type_hints(type(self)).items():
            if kind is float:
                value = getattr(self, name)
                _require(self, name, math.isfinite(value) and value >= 0, "a number, at least 0")
            elif kind is int:
                _require(self, name, getattr(self, name) >= 0, "at least 0")
        _require(self, "seed", self.seed < 2**32, f"below {2**32}")
        _require(self, "learning_rate", self.learning_rate > 0, "more than 0")
        _require(self, "final_learning_rate", self.final_learning_rate <= 1, "between 0 and 1")
        _require(self, "ema_decay", 0 <= self.ema_decay < 1, "at least 0 and less than 1")
        if self.slots > 1:
            _require(
                self, "max_references", self.max_references <= self.slots, f"at most {self.slots}"
            )

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return dataclasses.asdict(self)


def _require(config: Any, name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(
            f"Got the training setting {name} = {getattr(config, name)}; expected {expected}."
        )


def check_fields(config: Any) -> None:
    """Refuse values of another type than their field's; a whole number serves as a float.

    Raises:
        ValueError: naming the setting.
    """
    for name, kind in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if typing.get_origin(kind) is Literal:
            choices = typing.get_args(kind)
            _require(config, name, value in choices, f"one of {', '.join(choices)}")
        elif kind is float and type(value) is int:
            object.__setattr__(config, name, float(value))
        elif type(value) is not kind:
            _require(config, name, False, f"a value of type {kind.__name__}")
