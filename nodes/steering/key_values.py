"""An adapter in ComfyUI's memory management, and the G and U that it makes of references."""

from __future__ import annotations

import uuid
import weakref
from functools import cached_property
from typing import NamedTuple

import comfy.model_management
import comfy.model_patcher
import torch
from torch import Tensor

from ...models.adapter import MultiIPAdapter
from ...models.aggregation import Aggregated
from ...models.lora import fingerprint
from ...models.references import ReferenceEmbeds


class LayerKeyValues(NamedTuple):
    """G and U of one layer, for the references and for the null image.

    Shapes: keys, values [S, T, D]; null_keys, null_values [S or 1, T, D]; bias [S T] or None.
    S = N for `concat`, otherwise 1.
    """

    keys: Tensor
    values: Tensor
    null_keys: Tensor
    null_values: Tensor
    bias: Tensor | None

    def to(self, *target) -> LayerKeyValues:
        """Moved or cast."""
        keys, values, null_keys, null_values = (x.to(*target) for x in self[:4])
        bias = None if self.bias is None else self.bias.to(*target)
        return LayerKeyValues(keys, values, null_keys, null_values, bias)

    def select(self, is_cond: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """G and U per row, [B, S T, D], in the queries' type, and the bias [1, S T].

        One null image stands for S of them: a softmax over copies gives the same.
        """
        kv = self.to(q)  # nothing happens when ComfyUI has moved them already
        keys = torch.where(is_cond, kv.keys, kv.null_keys).flatten(1, 2)
        values = torch.where(is_cond, kv.values, kv.null_values).flatten(1, 2)
        return keys, values, None if kv.bias is None else kv.bias.unsqueeze(0)


class LoadedAdapter:
    """The MULTI_IPADAPTER wire: an adapter that ComfyUI loads and offloads like its own models."""

    def __init__(self, adapter: MultiIPAdapter, name: str):
        self.adapter = adapter
        self.name = name
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            adapter,
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )
        self._cache: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    @cached_property
    def lora_id(self) -> uuid.UUID:
        """Id of the LoRA's weights, which never change: the same for all who read the file."""
        return uuid.uuid5(uuid.NAMESPACE_OID, fingerprint(self.adapter.lora))

    @property
    def config(self):
        """The adapter's config."""
        return self.adapter.config

    def key_values(
        self,
        references: ReferenceEmbeds,
        aggregation: str,
        dtype: torch.dtype,
        shortcut_scale: float = 1.0,
    ) -> list[LayerKeyValues]:
        """G and U of every layer; remembered as long as these references are.

        `shortcut_scale` is FaceID-Plus v2's, see `MultiIPAdapter.project`.
        """
        answers = self._cache.setdefault(references, {})
        asked = (aggregation, dtype, shortcut_scale)
        if asked not in answers:
            answers[asked] = self._compute(references, *asked)
        return answers[asked]

    def _compute(
        self,
        references: ReferenceEmbeds,
        aggregation: str,
        dtype: torch.dtype,
        shortcut_scale: float,
    ) -> list[LayerKeyValues]:
        comfy.model_management.load_model_gpu(self.patcher)
        device = self.patcher.load_device
        features, null_features = (_on(device, x) for x in (references.features, references.null))
        tokens = self.adapter.project(features, shortcut_scale)  # [1, N, T, C]
        null = self.adapter.project(null_features, shortcut_scale)  # [1, 1, T, C]
        if self.config.slots > 1:
            null = null.expand(-1, tokens.shape[1], -1, -1)
        weights = _unequal(references.weights, device)
        layers = zip(
            self.adapter.aggregate(tokens, aggregation, weights),
            self.adapter.aggregate(null, aggregation, weights if self.config.slots > 1 else None),
            strict=True,
        )
        home = comfy.model_management.intermediate_device()
        return [_layer(layer, null, tokens.shape[2]).to(home, dtype) for layer, null in layers]


def _layer(layer: Aggregated, null: Aggregated, tokens: int) -> LayerKeyValues:
    def rows(x: Tensor) -> Tensor:
        return x[0].unflatten(0, (-1, tokens))  # [1, S T, D] -> [S, T, D]

    bias = None if layer.bias is None else layer.bias[0]
    return LayerKeyValues(
        rows(layer.keys), rows(layer.values), rows(null.keys), rows(null.values), bias
    )


def _on(device: torch.device, features) -> dict[str, Tensor]:
    return {name: x.to(device, torch.float32).unsqueeze(0) for name, x in features.items()}


def _unequal(weights: Tensor, device: torch.device) -> Tensor | None:
    """[1, N], or None when all are equal: then no bias has to be carried along."""
    return None if (weights == weights[0]).all() else weights.to(device).unsqueeze(0)
