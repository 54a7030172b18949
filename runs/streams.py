"""Random numbers of a run, each from the seed, a stream and a position alone.

Nothing is remembered between them, so a resumed run, or one on another number of processes, draws
the same.
"""

from __future__ import annotations

import numpy as np
import torch

# Streams that must not overlap.
ROWS, EPOCH, VALIDATION, SPLIT = 1, 2, 3, 10


def numbers(seed: int, stream: int, position: int = 0) -> np.random.Generator:
    """What is chosen: rows, references, identities."""
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, 0, position]))


def step_noise(seed: int, micro_step: int) -> torch.Generator:
    """Noise and timesteps of a batch in training."""
    mixed = (seed * 0x9E3779B97F4A7C15 + micro_step * 0xD1B54A32D192ED03 + 1) % 2**63
    return torch.Generator().manual_seed(mixed)


def case_noise(seed: int, case: int) -> torch.Generator:
    """Noise of a case that is looked at again and again, such as in validation."""
    return torch.Generator().manual_seed(seed * 1_000_003 + case)
