"""The training loop that all stages share: resumable, deterministic by seed, on any device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ...files.tensors import write_safetensors

_CHECKPOINT_SECONDS = 180.0
_LOG_SECONDS = 30.0


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; the batch of a step is a function of (seed, step) alone."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int = 200
    weight_decay: float = 0.01
    ema: float = 0.999
    seed: int = 0


def generator(recipe: Recipe, step: int) -> torch.Generator:
    """What the draws of one step come from."""
    return torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)


def fit(
    model: nn.Module,
    loss: Callable[[int, torch.Generator], tuple[Tensor, str]],
    recipe: Recipe,
    state: Path,
    device: torch.device,
) -> None:
    """Train `model` in place; at the end it holds the averaged weights.

    `loss` takes a step and its generator and returns the loss and a few words for the log. The
    state is written every three minutes, and a run that finds one goes on from it.
    """
    # ComfyUI keeps encoders in half precision, in which AdamW divides by 0.
    model.to(device, torch.float32).train().requires_grad_(True)
    parameters = dict(model.named_parameters())
    average = {name: value.detach().clone() for name, value in parameters.items()}
    optimizer = torch.optim.AdamW(
        parameters.values(), weight_decay=recipe.weight_decay, betas=(0.9, 0.99), fused=True
    )
    begin = _resume(state, parameters, average, optimizer) if state.is_file() else 0
    logged = written = time.monotonic()
    since = begin
    for step in range(begin, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _share(recipe, step)
        with torch.autocast(device.type, torch.bfloat16):
            value, words = loss(step, generator(recipe, step))
        value.backward()
        nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        decay = min(recipe.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), list(parameters.values()), 1 - decay)
        now = time.monotonic()
        if now - logged > _LOG_SECONDS or step + 1 == recipe.steps:
            speed = (now - logged) / (step + 1 - since)
            print(f"  step {step + 1} of {recipe.steps}, {speed:.3f} s each: {words}", flush=True)
            logged, since = now, step + 1
        if now - written > _CHECKPOINT_SECONDS or step + 1 == recipe.steps:
            _write(state, parameters, average, optimizer, step + 1)
            written = now
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(average[name])
    model.eval().requires_grad_(False)


def _share(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then cosine down to 2 %."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def _write(
    state: Path,
    parameters: dict[str, nn.Parameter],
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    step: int,
) -> None:
    tensors = {"step": torch.tensor(step)}
    for name, value in parameters.items():
        tensors[f"model.{name}"], tensors[f"average.{name}"] = value.detach(), average[name]
        for key, moment in optimizer.state[value].items():
            tensors[f"{key}.{name}"] = moment
    state.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(state, {k: v.cpu().contiguous() for k, v in tensors.items()}, {})


def _resume(
    state: Path,
    parameters: dict[str, nn.Parameter],
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> int:
    tensors = load_file(state)
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(tensors[f"model.{name}"])
            average[name].copy_(tensors[f"average.{name}"])
            optimizer.state[value] = {
                key: tensors[f"{key}.{name}"].to("cpu" if key == "step" else value.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
    step = int(tensors["step"])
    print(f"  goes on after step {step}", flush=True)
    return step
