"""The optimizer and its learning rate over the steps of a run."""

from __future__ import annotations

import math

import torch

from ..models.adapter import MultiIPAdapter
from .checks import check_optimizer
from .config import TrainingConfig


def learning_rate_share(config: TrainingConfig, step: int) -> float:
    """Linear warm-up, then cosine down to `final_learning_rate`, or constant."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.final_learning_rate + (1 - config.final_learning_rate) * cosine


def build_optimizer(adapter: MultiIPAdapter, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW over the projection and the rest, each with its learning rate as `base_lr`.

    Raises:
        ValueError: the 8-bit form without bitsandbytes.
    """
    projection = list(adapter.image_proj.parameters())
    others = [*adapter.ip_adapter.parameters(), *adapter.aggregator.parameters()]
    rates = (config.projection_learning_rate or config.learning_rate, config.learning_rate)
    groups = [
        {"params": params, "lr": rate, "base_lr": rate}
        for params, rate in zip((projection, others), rates, strict=True)
    ]
    if config.optimizer == "adamw8bit":
        check_optimizer(config)
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(groups, weight_decay=config.weight_decay)
    # The fused form needs no word from the GPU about whether the scaler found a gradient infinite.
    fused = projection[0].device.type == "cuda"
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=fused)
