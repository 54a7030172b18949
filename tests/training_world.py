"""A small world to train in: identities whose pictures share a hidden factor, and a frozen model.

`LinearBackbone` is a model of one cross-attention layer, for what does not depend on the UNet.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from multi_ipadapter.diffusion.backbone import Backbone
from multi_ipadapter.models.attention import add_image_attention
from multi_ipadapter.models.projection import HIDDEN, POOLED
from multi_ipadapter.training.config import TrainingConfig
from multi_ipadapter.training.encoding import Encoders
from multi_ipadapter.training.run import MadeFrom, Run

from .plain_attention import sdpa

WIDTHS = {POOLED: 48, HIDDEN: 64}
SMALL = TrainingConfig(
    steps=12,
    batch_size=4,
    projection="linear",
    num_tokens=2,
    learning_rate=3e-3,
    warmup=3,
    precision="fp32",
    log_every=1,
    ema_decay=0.9,
    validate_every=0,
    checkpoint_every=0,
    max_references=3,
)


# Of what they read, nothing is asked but the widths: `World` has the features.
ENCODERS = Encoders(lambda pictures, names: {}, "encoders", WIDTHS)


def settings(**changes) -> TrainingConfig:
    """Few quick steps."""
    return dataclasses.replace(SMALL, **changes)


class Groups:
    """Identities with these numbers of pictures."""

    def __init__(self, counts):
        self.identities = [f"identity {i}" for i in range(len(counts))]
        self.starts = [sum(counts[:i]) for i in range(len(counts) + 1)]

    def pictures_of(self, identity: int) -> range:
        """Numbers of the identity's pictures."""
        return range(self.starts[identity], self.starts[identity + 1])


class World:
    """A feature source. An identity is a point on a circle; its pictures' latents and features
    show it, with noise of their own."""

    def __init__(self, counts=(5, 4, 3, 2, 6), seed: int = 0, side: int = 8, spread: float = 0.1):
        random = torch.Generator().manual_seed(seed)
        fixed = torch.Generator().manual_seed(99)  # the same law for all worlds
        self.index = Groups(list(counts))
        owner = torch.repeat_interleave(torch.tensor(list(counts)))
        angle = torch.rand(len(counts), generator=random)[owner] * 2 * torch.pi
        factor = torch.stack([angle.cos(), angle.sin()], 1)
        mixing = {n: torch.randn(2, w, generator=fixed) for n, w in WIDTHS.items()}
        colours = torch.tensor([[1.0, 0.0, -1.0, 0.5], [0.0, 1.0, 0.5, -1.0]])
        flat = (factor @ colours)[:, :, None, None].expand(-1, 4, side, side)
        count = len(owner)

        def noise(*shape) -> Tensor:
            return spread * torch.randn(count, *shape, generator=random)

        self.tensors = {
            "latents": flat + noise(4, side, side),
            POOLED: factor @ mixing[POOLED] + noise(WIDTHS[POOLED]),
            HIDDEN: (factor @ mixing[HIDDEN])[:, None].expand(-1, 5, -1) + noise(5, WIDTHS[HIDDEN]),
            "mask": (torch.rand(count, 1, side, side, generator=random) > 0.5).float(),
        }

    def fetch(self, numbers, names):
        """[len(numbers), ...] each."""
        return {name: self.tensors[name][list(numbers)].clone() for name in names}

    def readable(self, rows):
        """All of them."""
        return list(rows)

    def caption(self, number: int) -> str:
        """Says nothing about the identity."""
        return f"a person, picture {number % 3}"


class OneLayer(nn.Module):
    """Queries from the noisy latents and the time, one cross-attention, and a way out."""

    def __init__(self, dim: int = 16, context: int = 8):
        super().__init__()
        self.to_q = nn.Linear(4 + 1, dim, bias=False)
        self.to_k = nn.Linear(context, dim, bias=False)
        self.to_v = nn.Linear(context, dim, bias=False)
        self.out = nn.Linear(dim, 4)

    def forward(self, noisy: Tensor, timesteps: Tensor, context: Tensor, layers) -> Tensor:
        """[B, 4, h, w] -> the same."""
        pixels = noisy.flatten(2).transpose(1, 2)
        time = (timesteps.to(noisy) / 100).view(-1, 1, 1).expand(-1, pixels.shape[1], 1)
        q = self.to_q(torch.cat([pixels, time], -1))
        attend = sdpa(2)
        x = attend(q, self.to_k(context), self.to_v(context), None)
        if layers:
            keys, values, bias = layers[0]
            x = add_image_attention(x, q, keys, values, 1.0, attend, bias)
        return self.out(x).transpose(1, 2).unflatten(2, noisy.shape[2:])


def one_layer_backbone(prediction: str = "epsilon", dtype=torch.float32) -> Backbone:
    """A frozen model of one layer, 100 timesteps."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = OneLayer().to(dtype).requires_grad_(False)
        null = {name: torch.zeros(1, width, dtype=dtype) for name, width in WIDTHS.items()}
        table = torch.randn(4, 3, 8, dtype=dtype)

    def encode_text(captions):
        return {"context": torch.stack([table[len(c) % 3 if c else 3] for c in captions])}

    return Backbone(
        denoise=lambda noisy, t, text, layers: model(noisy, t, text["context"], layers),
        encode_text=encode_text,
        text_weights=lambda: [(model.to_k.weight, model.to_v.weight)],
        attention_ratio=lambda *_: torch.ones(1),
        alphas_cumprod=torch.linspace(0.999, 0.01, 100, dtype=dtype),
        prediction=prediction,
        null_features=null,
        device=torch.device("cpu"),
    )


def make_run(folder, config, backbone=None, held_out=None, fingerprint=None, processes=None) -> Run:
    """A run in the small world."""
    made_from = MadeFrom(World(), held_out, ENCODERS, fingerprint or {})
    return Run(Path(folder), config, backbone or one_layer_backbone(), made_from, processes)
