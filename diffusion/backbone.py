"""The frozen diffusion model as training sees it: a few plain callables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..models.aggregation import Aggregated

Text = Mapping[str, Tensor]
Prediction = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True)
class Backbone:
    """What binds a diffusion model to the engine.

    Attributes:
        denoise: (noisy [B, c, h, w], timesteps int64 [B], text, G and U per layer) -> the model's
            prediction [B, c, h, w]. No layers: the model without references.
        encode_text: captions -> {"context": [B, L, C]} and, for SDXL, {"y": [B, A]}.
        text_weights: W_k, W_v of every cross-attention layer, in the adapter files' order.
        attention_ratio: as `denoise`, but returns |image term| / |text term| of each layer.
        alphas_cumprod: of the noise schedule, [steps].
        prediction: what the model predicts.
        null_features: features of the null image, each [1, ...].
        device: where it computes.
    """

    denoise: Callable[[Tensor, Tensor, Text, Sequence[Aggregated]], Tensor]
    encode_text: Callable[[Sequence[str]], dict[str, Tensor]]
    text_weights: Callable[[], list[tuple[Tensor, Tensor]]]
    attention_ratio: Callable[[Tensor, Tensor, Text, Sequence[Aggregated]], Tensor]
    alphas_cumprod: Tensor
    prediction: Prediction
    null_features: Mapping[str, Tensor]
    device: torch.device
