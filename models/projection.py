"""First step of the adapter: image-encoder features of one reference become T context tokens.

Every class keeps the parameter names of the public IP-Adapter files (`image_proj.*`), so that a
file loads without renaming. `operations` is `torch.nn` or a drop-in such as ComfyUI's
`comfy.ops.manual_cast`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ProjectionKind = Literal["linear", "resampler", "full_face", "faceid", "faceid_plus"]

# Names of the reference features, as ComfyUI's CLIP vision output spells them.
POOLED = "image_embeds"
HIDDEN = "penultimate_hidden_states"
FACE = "face_embeds"  # a face recogniser's output, of the length that it gave it


@dataclass(frozen=True)
class ProjectionConfig:
    """Sizes of an image projection.

    Attributes:
        kind: which class below.
        num_tokens: T, context tokens per reference; 0 where the encoder decides (`full_face`).
        output_dim: C, the UNet's cross-attention dimension.
        input_dim: width of the image encoder's feature (pooled for `linear`, hidden otherwise;
            the recogniser's for a resampler over face embeddings); 0 for `faceid`.
        id_dim: width of the face embedding (`faceid`, `faceid_plus`).
        hidden_dim: width of the resampler or of the MLP.
        depth, heads, dim_head, ff_mult: of the (perceiver) resampler.
        shortcut: FaceID-Plus v2 adds the identity tokens to the perceiver's output.
        face_input: the resampler reads face embeddings instead of hidden states.
    """

    kind: ProjectionKind
    num_tokens: int
    output_dim: int
    input_dim: int = 0
    id_dim: int = 0
    hidden_dim: int = 0
    depth: int = 4
    heads: int = 12
    dim_head: int = 64
    ff_mult: int = 4
    shortcut: bool = False
    face_input: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the reference features that the projection's `forward` takes, in order."""
        if self.kind == "linear":
            return (POOLED,)
        if self.kind == "faceid" or self.face_input:
            return (FACE,)
        return (FACE, HIDDEN) if self.kind == "faceid_plus" else (HIDDEN,)

    @property
    def widths(self) -> dict[str, int]:
        """Width of each of `inputs`."""
        return {
            name: self.id_dim if name == FACE and not self.face_input else self.input_dim
            for name in self.inputs
        }

    @property
    def unit_faces(self) -> bool:
        """Whether face embeddings are brought to length 1: FaceID, FaceID-Plus and portrait, but
        not the resampler over them (portrait-unnorm, InstantID)."""
        return FACE in self.inputs and not self.face_input


class ImageProjection(nn.Module):
    """Linear projection of the pooled embedding to T tokens (arXiv 2308.06721, section 3.2.1)."""

    def __init__(self, config: ProjectionConfig, operations: Any = nn):
        super().__init__()
        self.num_tokens = config.num_tokens
        self.proj = operations.Linear(config.input_dim, config.num_tokens * config.output_dim)
        self.norm = operations.LayerNorm(config.output_dim)

    def forward(self, image_embeds: Tensor) -> Tensor:
        """[B, D] -> [B, T, C]."""
        return self.norm(self.proj(image_embeds).unflatten(-1, (self.num_tokens, -1)))


class FullFaceProjection(nn.Module):
    """MLP on every hidden state, class token included: T is the encoder's sequence length."""

    def __init__(self, config: ProjectionConfig, operations: Any = nn):
        super().__init__()
        self.proj = nn.Sequential(
            operations.Linear(config.input_dim, config.hidden_dim),
            nn.GELU(),
            operations.Linear(config.hidden_dim, config.output_dim),
            operations.LayerNorm(config.output_dim),
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[B, S, D] -> [B, T = S, C]."""
        return self.proj(hidden_states)


class _FaceTokens(nn.Module):
    """MLP from a face embedding to T tokens."""

    def __init__(self, config: ProjectionConfig, operations: Any = nn):
        super().__init__()
        self.num_tokens = config.num_tokens
        self.proj = nn.Sequential(
            operations.Linear(config.id_dim, config.hidden_dim),
            nn.GELU(),
            operations.Linear(config.hidden_dim, config.num_tokens * config.output_dim),
        )
        self.norm = operations.LayerNorm(config.output_dim)

    def tokens(self, face_embeds: Tensor) -> Tensor:
        """[B, 512] -> [B, T, C]."""
        return self.norm(self.proj(face_embeds).unflatten(-1, (self.num_tokens, -1)))


class FaceIDProjection(_FaceTokens):
    """The tokens as they are (FaceID, FaceID-Portrait)."""

    def forward(self, face_embeds: Tensor) -> Tensor:
        """[B, 512] -> [B, T, C]."""
        return self.tokens(face_embeds)


class PerceiverAttention(nn.Module):
    """Latents attend to the features and to themselves (Flamingo, arXiv 2204.14198)."""

    def __init__(self, dim: int, heads: int, dim_head: int, operations: Any = nn):
        super().__init__()
        self.heads = heads
        self.norm1 = operations.LayerNorm(dim)
        self.norm2 = operations.LayerNorm(dim)
        self.to_q = operations.Linear(dim, heads * dim_head, bias=False)
        self.to_kv = operations.Linear(dim, 2 * heads * dim_head, bias=False)
        self.to_out = operations.Linear(heads * dim_head, dim, bias=False)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        """x [B, S, D], latents [B, T, D] -> [B, T, D]."""
        x, latents = self.norm1(x), self.norm2(latents)
        q = self._split(self.to_q(latents))  # [B, H, T, d]
        k, v = self.to_kv(torch.cat([x, latents], dim=1)).chunk(2, dim=-1)  # [B, S + T, H d]
        out = F.scaled_dot_product_attention(q, self._split(k), self._split(v))  # [B, H, T, d]
        return self.to_out(out.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, S, H d] -> [B, H, S, d]


def _feed_forward(dim: int, mult: int, operations: Any) -> nn.Sequential:
    return nn.Sequential(
        operations.LayerNorm(dim),
        operations.Linear(dim, dim * mult, bias=False),
        nn.GELU(),
        operations.Linear(dim * mult, dim, bias=False),
    )


class PerceiverResampler(nn.Module):
    """Turns given latents into tokens by attending to image features, layer after layer."""

    def __init__(self, config: ProjectionConfig, dim: int, operations: Any = nn):
        super().__init__()
        self.proj_in = operations.Linear(config.input_dim, dim)
        self.proj_out = operations.Linear(dim, config.output_dim)
        self.norm_out = operations.LayerNorm(config.output_dim)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PerceiverAttention(dim, config.heads, config.dim_head, operations),
                    _feed_forward(dim, config.ff_mult, operations),
                ]
            )
            for _ in range(config.depth)
        )

    def resample(self, latents: Tensor, x: Tensor) -> Tensor:
        """latents [B, T, dim], x [B, S, D] -> [B, T, C]."""
        x = self.proj_in(x)  # [B, S, dim]
        for attention, feed_forward in cast(Iterable[tuple[nn.Module, nn.Module]], self.layers):
            latents = attention(x, latents) + latents
            latents = feed_forward(latents) + latents
        return self.norm_out(self.proj_out(latents))


class Resampler(PerceiverResampler):
    """Learned queries over the encoder's hidden states (IP-Adapter Plus)."""

    def __init__(self, config: ProjectionConfig, operations: Any = nn):
        super().__init__(config, config.hidden_dim, operations)
        self.latents = nn.Parameter(
            torch.randn(1, config.num_tokens, config.hidden_dim) / config.hidden_dim**0.5
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D], or one embedding per reference [B, D] -> [B, T, C]."""
        x = x.unsqueeze(1) if x.ndim == 2 else x  # [B, S, D]
        return self.resample(self.latents.to(x).expand(x.shape[0], -1, -1), x)


class FaceIDPlusProjection(_FaceTokens):
    """Identity tokens refined by the hidden states of the face crop (FaceID-Plus v1 and v2)."""

    def __init__(self, config: ProjectionConfig, operations: Any = nn):
        super().__init__(config, operations)
        self.shortcut = config.shortcut
        self.perceiver_resampler = PerceiverResampler(config, config.output_dim, operations)

    def forward(self, face_embeds: Tensor, hidden_states: Tensor, scale: float = 1.0) -> Tensor:
        """[B, 512], [B, S, D] -> [B, T, C]; `scale` weighs the hidden states in v2."""
        tokens = self.tokens(face_embeds)
        refined = self.perceiver_resampler.resample(tokens, hidden_states)
        return tokens + scale * refined if self.shortcut else refined


_CLASSES = {
    "linear": ImageProjection,
    "resampler": Resampler,
    "full_face": FullFaceProjection,
    "faceid": FaceIDProjection,
    "faceid_plus": FaceIDPlusProjection,
}


def build_projection(config: ProjectionConfig, operations: Any = nn) -> nn.Module:
    """Make the projection that `config` describes."""
    return _CLASSES[config.kind](config, operations)
