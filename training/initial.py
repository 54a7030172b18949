"""A fresh adapter for a model: from its text weights, or from an adapter file."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..models.adapter import MultiIPAdapter, MultiIPAdapterConfig, family_name
from ..models.checkpoint import encoder_name, load_adapter
from ..models.projection import FACE, HIDDEN, POOLED, ProjectionConfig
from .config import TrainingConfig

log = logging.getLogger("MultiIPAdapter")

_DIM_HEAD = 64  # other programs read the number of heads off the shapes with it
_FACES_NEEDED = (
    "expected one that reads the pictures' faces. Connect face_analysis to the node, or set "
    "face_pack to the folder of a face model pack."
)
_SDXL_CONTEXT, _SDXL_DIM = 2048, 1280


def initial_adapter(
    config: TrainingConfig,
    text_weights: Sequence[tuple[Tensor, Tensor]],
    widths: Mapping[str, int],
    recogniser: str = "",
) -> MultiIPAdapter:
    """The adapter at step 0, float32, trainable.

    Args:
        text_weights: W_k, W_v [D, C] of every layer.
        widths: of the encoders' features, by name.
        recogniser: the one behind the face embeddings, if they are read.

    Raises:
        ValueError: as `plan_adapter`.
    """
    layer_dims = [to_k.shape[0] for to_k, _ in text_weights]
    loaded = load_adapter(config.start_from) if config.start_from else None
    plan = _plan(config, layer_dims, text_weights[0][0].shape[1], widths, loaded)
    if FACE in plan.projection.inputs:
        plan = dataclasses.replace(plan, recogniser=recogniser)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        adapter = MultiIPAdapter(plan)
    with torch.no_grad():
        if loaded:
            _copy_file(adapter, loaded)
        else:
            _copy_text_weights(adapter, text_weights)
    return adapter.float().train().requires_grad_(True)


def plan_adapter(
    config: TrainingConfig, layer_dims: Sequence[int], context_dim: int, widths: Mapping[str, int]
) -> MultiIPAdapterConfig:
    """The sizes that `initial_adapter` will make; nothing is allocated.

    Raises:
        ValueError: the file to start from was made for another model or encoder or for more slots,
            or head groups that do not divide the layers.
    """
    loaded = load_adapter(config.start_from) if config.start_from else None
    return _plan(config, layer_dims, context_dim, widths, loaded)


def made_settings(config: TrainingConfig, adapter: MultiIPAdapterConfig) -> dict[str, Any]:
    """The settings as plain values, with the adapter's real sizes: a file to start from keeps its
    own projection."""
    projection = adapter.projection
    real = {"projection": projection.kind, "num_tokens": projection.num_tokens}
    if projection.kind == "resampler":
        real |= {"resampler_dim": projection.hidden_dim, "resampler_depth": projection.depth}
    return config.to_dict() | real


def leaves_public_shapes(adapter: MultiIPAdapterConfig) -> list[str]:
    """What in an adapter's sizes other programs do not expect; empty: they load its file."""
    projection = adapter.projection
    reasons = [f"slots = {adapter.slots}"] if adapter.slots > 1 else []
    if projection.kind not in ("linear", "resampler", "faceid"):
        return reasons
    widths = dict.fromkeys((POOLED, HIDDEN), projection.input_dim) | {FACE: projection.id_dim}
    public = _projection(TrainingConfig(projection=projection.kind), projection.output_dim, widths)
    for name in ("num_tokens", "hidden_dim", "depth", "heads", "dim_head", "ff_mult"):
        got, usual = getattr(projection, name), getattr(public, name)
        if got != usual:
            reasons.append(f"{name} = {got} (public files: {usual})")
    return reasons


def _plan(
    config: TrainingConfig,
    layer_dims: Sequence[int],
    context_dim: int,
    widths: Mapping[str, int],
    loaded: MultiIPAdapter | None,
) -> MultiIPAdapterConfig:
    heads = config.aggregator_heads if config.aggregation == "learned" else 0
    if heads and any(dim % heads for dim in layer_dims):
        raise ValueError(
            f"Got aggregator_heads = {heads}; expected a number that divides the widths of the "
            f"model's layers, {', '.join(map(str, sorted(set(layer_dims))))}."
        )
    if loaded:
        _check_start(loaded.config, config, layer_dims, context_dim, widths)
        plan = loaded.config
    else:
        projection = _projection(config, context_dim, widths)
        feature = "pooled" if projection.inputs == (POOLED,) else "hidden"
        encoder = encoder_name(feature, projection.input_dim) if projection.input_dim else ""
        plan = MultiIPAdapterConfig(projection, tuple(layer_dims), image_encoder=encoder)
    return dataclasses.replace(
        plan, slots=config.slots, aggregation=config.aggregation, aggregator_heads=heads
    )


def _projection(
    config: TrainingConfig, context_dim: int, widths: Mapping[str, int]
) -> ProjectionConfig:
    """Where the settings leave it open, sizes are those of the public files of the family."""
    if config.projection == "linear":
        tokens = config.num_tokens or 4
        return ProjectionConfig("linear", tokens, context_dim, input_dim=widths[POOLED])
    if config.projection == "faceid":
        if FACE not in widths:
            raise ValueError(f"Got projection = faceid without face analysis; {_FACES_NEEDED}")
        tokens, width = config.num_tokens or 4, widths[FACE]
        return ProjectionConfig("faceid", tokens, context_dim, id_dim=width, hidden_dim=2 * width)
    usual = _SDXL_DIM if context_dim == _SDXL_CONTEXT else context_dim
    dim = config.resampler_dim or usual
    dim_head = min(_DIM_HEAD, dim)
    return ProjectionConfig(
        "resampler",
        config.num_tokens or 16,
        context_dim,
        input_dim=widths[HIDDEN],
        hidden_dim=dim,
        depth=config.resampler_depth,
        heads=dim // dim_head,
        dim_head=dim_head,
    )


def _check_start(
    start: MultiIPAdapterConfig,
    config: TrainingConfig,
    layer_dims: Sequence[int],
    context_dim: int,
    widths: Mapping[str, int],
) -> None:
    projection = start.projection
    if start.layer_dims != tuple(layer_dims) or projection.output_dim != context_dim:
        raise ValueError(
            f"The adapter to start from is for {start.base_model}; the model is "
            f"{family_name(len(layer_dims), context_dim)}. Choose a file of the model's family."
        )
    if projection.kind == "faceid_plus":
        raise ValueError(
            "The adapter to start from is a FaceID-Plus, which is not trained here. Choose a "
            "FaceID, portrait, Plus or base file, or none."
        )
    if FACE in projection.inputs and FACE not in widths:
        raise ValueError(
            f"The adapter to start from reads face embeddings; got none, {_FACES_NEEDED}"
        )
    for name, width in projection.widths.items():
        if widths.get(name) != width:
            raise ValueError(
                f"The adapter to start from reads {name} of width {width}; the "
                f"image encoder gives {widths.get(name)}. Use "
                f"{start.image_encoder or 'its encoder'}."
            )
    if start.slots > config.slots:
        raise ValueError(
            f"The adapter to start from has {start.slots} slots; got slots = {config.slots}, which "
            f"would drop the others. Set slots = {start.slots} or more, and max_references to that "
            "at most."
        )


def _copy_text_weights(
    adapter: MultiIPAdapter, text_weights: Sequence[tuple[Tensor, Tensor]]
) -> None:
    for layer, (to_k, to_v) in zip(adapter.key_values().values(), text_weights, strict=True):
        for slot_k, slot_v in layer.pairs():
            slot_k.weight.copy_(to_k)
            slot_v.weight.copy_(to_v)


def _copy_file(adapter: MultiIPAdapter, loaded: MultiIPAdapter) -> None:
    """The file's weights; more slots start as copies of its first."""
    adapter.image_proj.load_state_dict(loaded.image_proj.state_dict())
    given = loaded.key_values()
    for name, layer in adapter.key_values().items():
        sources = given[name].pairs()
        for slot, (to_k, to_v) in enumerate(layer.pairs()):
            source_k, source_v = sources[slot if slot < len(sources) else 0]
            to_k.weight.copy_(source_k.weight)
            to_v.weight.copy_(source_v.weight)
    if loaded.lora:
        log.warning(
            "The LoRA of the file to start from is neither used nor kept: the adapter learns to "
            "do without it."
        )
    got, wanted = loaded.config.aggregator_heads, adapter.config.aggregator_heads
    if got == wanted:
        scores = loaded.scores()
        for name, score in adapter.scores().items():
            score.copy_(scores[name])
    elif got:
        log.warning(
            "The trained score of the file to start from is not used: it has %d head groups, this "
            "run has %s.",
            got,
            wanted or "none",
        )
