"""A fresh adapter for a model: from its text weights, or from an adapter file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.adapter import MultiIPAdapter, MultiIPAdapterConfig, family_name
from ..models.checkpoint import load_adapter
from ..models.projection import HIDDEN, POOLED, ProjectionConfig
from .config import TrainingConfig


def initial_adapter(
    config: TrainingConfig, text_weights: Sequence[tuple[Tensor, Tensor]], widths: dict[str, int]
) -> MultiIPAdapter:
    """The adapter at step 0, float32, trainable.

    Args:
        text_weights: W_k, W_v [D, C] of every layer.
        widths: of the image encoder's features, by name.

    Raises:
        ValueError: the file to start from was made for another model or encoder.
    """
    if config.start_from:
        adapter = _from_file(config, text_weights, widths)
    else:
        adapter = _from_text_weights(config, text_weights, widths)
    return adapter.float().train().requires_grad_(True)


def _from_text_weights(
    config: TrainingConfig, text_weights: Sequence[tuple[Tensor, Tensor]], widths: dict[str, int]
) -> MultiIPAdapter:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        adapter = MultiIPAdapter(_adapter_config(config, text_weights, widths))
    with torch.no_grad():
        for layer, (to_k, to_v) in zip(adapter.ip_adapter.values(), text_weights, strict=True):
            for slot_k, slot_v in layer.pairs():
                slot_k.weight.copy_(to_k)
                slot_v.weight.copy_(to_v)
    return adapter


def _adapter_config(
    config: TrainingConfig, text_weights: Sequence[tuple[Tensor, Tensor]], widths: dict[str, int]
) -> MultiIPAdapterConfig:
    context_dim = text_weights[0][0].shape[1]
    if config.projection == "linear":
        projection = ProjectionConfig(
            "linear", config.num_tokens, context_dim, input_dim=widths[POOLED]
        )
    else:
        dim_head = min(64, config.resampler_dim)
        projection = ProjectionConfig(
            "resampler",
            config.num_tokens,
            context_dim,
            input_dim=widths[HIDDEN],
            hidden_dim=config.resampler_dim,
            depth=config.resampler_depth,
            heads=config.resampler_dim // dim_head,
            dim_head=dim_head,
        )
    return MultiIPAdapterConfig(
        projection,
        tuple(to_k.shape[0] for to_k, _ in text_weights),
        slots=config.slots,
        aggregation=config.aggregation,
        aggregator_heads=config.aggregator_heads if config.aggregation == "learned" else 0,
    )


def _from_file(
    config: TrainingConfig, text_weights: Sequence[tuple[Tensor, Tensor]], widths: dict[str, int]
) -> MultiIPAdapter:
    """The file's weights; more slots start as copies of its first, a score starts at zero."""
    loaded = load_adapter(config.start_from)
    dims = tuple(to_k.shape[0] for to_k, _ in text_weights)
    context_dim = text_weights[0][0].shape[1]
    projection = loaded.config.projection
    if loaded.config.layer_dims != dims or projection.output_dim != context_dim:
        raise ValueError(
            f"The adapter to start from is for {loaded.config.base_model}; the model is "
            f"{family_name(len(dims), context_dim)}. Choose a file of the model's family."
        )
    for name in projection.inputs:
        if widths.get(name) != projection.input_dim:
            raise ValueError(
                f"The adapter to start from reads {name} of width {projection.input_dim}; the "
                f"image encoder gives {widths.get(name)}. Use "
                f"{loaded.config.image_encoder or 'its encoder'}."
            )
    heads = config.aggregator_heads if config.aggregation == "learned" else 0
    adapter = MultiIPAdapter(
        dataclasses.replace(
            loaded.config,
            slots=config.slots,
            aggregation=config.aggregation,
            aggregator_heads=heads,
        )
    )
    adapter.image_proj.load_state_dict(loaded.image_proj.state_dict())
    with torch.no_grad():
        for name, layer in adapter.ip_adapter.items():
            sources = loaded.ip_adapter[name].pairs()
            for slot, (to_k, to_v) in enumerate(layer.pairs()):
                source_k, source_v = sources[slot if slot < len(sources) else 0]
                to_k.weight.copy_(source_k.weight)
                to_v.weight.copy_(source_v.weight)
            if name in adapter.aggregator and name in loaded.aggregator:
                score = loaded.aggregator[name].score
                if score.shape == adapter.aggregator[name].score.shape:
                    adapter.aggregator[name].score.copy_(score)
    return adapter
