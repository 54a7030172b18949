"""The adapter: projection, per-layer keys and values, and aggregation, in one module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional as F

from .aggregation import Aggregated, TokenScore, aggregate
from .attention import ImageKeyValue
from .lora import Lora
from .projection import ProjectionConfig, build_projection

FORMAT_VERSION = 1
_WRITTEN = {"recogniser": "face_recogniser"}  # names in the files where they differ

# (number of cross-attention layers, cross-attention dimension) -> family
_FAMILIES = {(16, 768): "SD1.x", (16, 1024): "SD2.x", (70, 2048): "SDXL"}


def family_name(num_layers: int, cross_attention_dim: int) -> str:
    """Name of the base family with these text cross-attention layers, as messages spell it."""
    name = _FAMILIES.get((num_layers, cross_attention_dim), "another UNet")
    return f"{name} ({num_layers} cross-attention layers, context {cross_attention_dim})"


@dataclass(frozen=True)
class MultiIPAdapterConfig:
    """Everything about an adapter that its tensors' shapes alone would not say, and their sizes.

    Attributes:
        projection: sizes of the image projection.
        layer_dims: inner dimension D of each cross-attention layer, in the files' order: down
            (input) blocks, up (output) blocks, middle block.
        slots: weight pairs per layer; 1, or one pair for each reference.
        aggregation: the method that the adapter was made for.
        aggregator_heads: head groups of the trained score; 0: the adapter has none.
        image_encoder: name of the image encoder, for messages.
        recogniser: name of the embedding space of the faces, where the file tells it.
        training: summary of the training run.
    """

    projection: ProjectionConfig
    layer_dims: tuple[int, ...]
    slots: int = 1
    aggregation: str = "concat"
    aggregator_heads: int = 0
    image_encoder: str = ""
    recogniser: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def base_model(self) -> str:
        """The base family that the adapter fits, as messages spell it."""
        return family_name(len(self.layer_dims), self.projection.output_dim)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        values = {_WRITTEN.get(name, name): value for name, value in asdict(self).items()}
        return values | {"base_model": self.base_model}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MultiIPAdapterConfig:
        """Back from `to_dict`; names of later format versions are ignored."""
        names = {_WRITTEN.get(name, name): name for name in cls.__dataclass_fields__}
        known = {names[k]: v for k, v in values.items() if k in names}
        projection = {
            k: v
            for k, v in known["projection"].items()
            if k in ProjectionConfig.__dataclass_fields__
        }
        return cls(
            **known
            | {
                "projection": ProjectionConfig(**projection),
                "layer_dims": tuple(known["layer_dims"]),
            }
        )


def layer_key(index: int) -> str:
    """Name of layer `index` in the files: odd numbers, because even ones are self-attention."""
    return str(2 * index + 1)


class MultiIPAdapter(nn.Module):
    """Image projection and one (W'_k, W'_v[, s]) per cross-attention layer.

    The state dict has the standard keys `image_proj.*`, `ip_adapter.<n>.to_k_ip.weight`, ...
    `lora` is what a FaceID file changes in the UNet; it is no part of the module, and stays where
    it was read.
    """

    def __init__(self, config: MultiIPAdapterConfig, operations: Any = nn):
        super().__init__()
        self.config = config
        self.lora: Lora = {}
        self.image_proj = build_projection(config.projection, operations)
        context_dim = config.projection.output_dim
        self.ip_adapter = nn.ModuleDict(
            {
                layer_key(i): ImageKeyValue(context_dim, dim, config.slots, operations)
                for i, dim in enumerate(config.layer_dims)
            }
        )
        self.aggregator = nn.ModuleDict()
        if config.aggregator_heads:
            for i, dim in enumerate(config.layer_dims):
                self.aggregator[layer_key(i)] = TokenScore(dim, config.aggregator_heads)

    def project(self, features: Mapping[str, Tensor], shortcut_scale: float = 1.0) -> Tensor:
        """Features of N references, each [B, N, ...] -> context tokens [B, N, T, C].

        `shortcut_scale` weighs the hidden states of FaceID-Plus v2; other adapters ignore it.
        """
        config = self.config.projection
        inputs = [features[name] for name in config.inputs]
        if config.unit_faces:
            inputs[0] = F.normalize(inputs[0], dim=-1)  # zeros, the null face, stay zeros
        options = {"scale": shortcut_scale} if config.kind == "faceid_plus" else {}
        tokens = self.image_proj(*(x.flatten(0, 1) for x in inputs), **options)  # [B N, T, C]
        return tokens.unflatten(0, inputs[0].shape[:2])

    def aggregate(
        self,
        tokens: Tensor,
        method: str | None = None,
        weights: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> list[Aggregated]:
        """Tokens [B, N, T, C] -> G and U of every layer, in the files' order.

        `weights` and `mask` are [B or 1, N], see `aggregation.aggregate`; `method` None: the one
        that the adapter was made for.
        """
        method = method or self.config.aggregation
        scores = self.scores()
        layers = []
        for name, key_value in self.key_values().items():
            keys, values = key_value(tokens)
            layers.append(aggregate(method, keys, values, weights, mask, scores.get(name)))
        return layers

    def key_values(self) -> dict[str, ImageKeyValue]:
        """Weights of every layer, by its name in the files."""
        return cast(dict[str, ImageKeyValue], dict(self.ip_adapter.items()))

    def scores(self) -> dict[str, nn.Parameter]:
        """Trained scores of every layer, by its name in the files; empty: not trained."""
        trained = cast(dict[str, TokenScore], dict(self.aggregator.items()))
        return {name: aggregator.score for name, aggregator in trained.items()}
