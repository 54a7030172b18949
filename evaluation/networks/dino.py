"""DINO and DINOv2: pictures -> the class token's features, for subject similarity."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model, PreTrainedModel, ViTConfig, ViTModel

from ..resize import resize_and_crop
from .precision import in_full_precision
from .transformer import build, weights_file
from .weights import file_hash, read_weights, shape_of

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
_LETTERS = {384: "s", 768: "b", 1024: "l", 1536: "g"}
_SIZE = 224
_KIND = "a DINO or DINOv2 vision transformer"

# The authors' key names -> those of transformers' files, by part of the name.
_RENAMED = {
    "pos_embed": "embeddings.position_embeddings",
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "mlp.w12": "mlp.weights_in",
    "mlp.w3": "mlp.weights_out",
    "norm": "layernorm",
}
_RENAMED_IN_DINO = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


class Dino:
    """A vision transformer of either generation; see `FeatureNetwork`. Nothing is normalised."""

    def __init__(self, model: PreTrainedModel, weights: str):
        config = model.config
        family = "dinov2" if isinstance(model, Dinov2Model) else "dino"
        letter = _LETTERS.get(config.hidden_size, config.hidden_size)
        self.model, self.weights = model, weights
        self.name = f"{family}-vit{letter}{config.patch_size}"
        self.resize = f"dino-{_SIZE}"
        self.outputs = {"cls": config.hidden_size}

    @in_full_precision
    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """uint8 [B, 3, H, W] -> "cls" float32 [B, D], after the final normalisation layer."""
        pixels = resize_and_crop(pixels, 256, _SIZE).to(self.model.device).float()
        mean, std = (pixels.new_tensor(v).view(3, 1, 1) for v in (_MEAN, _STD))
        pixels = (pixels / 255 - mean) / std
        return {"cls": self.model(pixel_values=pixels).last_hidden_state[:, 0]}


def load_dino(path: str | Path, device: str | torch.device = "cpu") -> Dino:
    """DINO (arXiv 2104.14294) or DINOv2 (2304.07193) of one file, the sizes read off its tensors.

    Files of the authors and of transformers are both read; a folder of the latter will do.

    Raises:
        ValueError: another network's file, or a damaged one.
        FileNotFoundError: there is no such file.
    """
    file = weights_file(path)
    tensors = read_weights(file)
    if "pos_embed" in tensors:
        tensors = _as_transformers_names(tensors)
    tensors = {k: v for k, v in tensors.items() if not k.startswith("pooler.")}
    patches = "embeddings.patch_embeddings.projection.weight"
    width, _, _, patch = shape_of(tensors, patches, 4, file, _KIND)
    positions = shape_of(tensors, "embeddings.position_embeddings", 3, file, _KIND)[1]
    sizes = {
        "hidden_size": width,
        "num_hidden_layers": sum(k.endswith("attention.output.dense.weight") for k in tensors),
        "num_attention_heads": max(1, width // 64),
        "patch_size": patch,
        "image_size": round((positions - 1) ** 0.5) * patch,
    }
    model = _build(tensors, sizes, file)
    return Dino(model.to(device), file_hash(file))


def _build(tensors: Mapping[str, Tensor], sizes: Mapping[str, Any], file: Path) -> Any:
    if "encoder.layer.0.layer_scale1.lambda1" in tensors:
        gated = "encoder.layer.0.mlp.weights_in.weight" in tensors  # the giant model
        return build(Dinov2Model, Dinov2Config(**sizes, use_swiglu_ffn=gated), tensors, file, _KIND)
    config = ViTConfig(**sizes, intermediate_size=4 * sizes["hidden_size"])
    return build(ViTModel, config, tensors, file, _KIND, add_pooling_layer=False)


def _as_transformers_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' tensors as transformers' files have them: other names, qkv in three parts."""
    second = "blocks.0.ls1.gamma" in tensors
    names = _RENAMED if second else _RENAMED | _RENAMED_IN_DINO
    renamed = {}
    for key, value in tensors.items():
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", key)
        prefix, rest = (f"encoder.layer.{block[1]}.", block[2]) if block else ("", key)
        module, _, kind = rest.rpartition(".")
        if module == "attn.qkv":
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[f"{prefix}attention.attention.{part}.{kind}"] = rows
        elif rest in names:
            renamed[prefix + names[rest]] = value
        else:
            renamed[f"{prefix}{names.get(module, module)}.{kind}"] = value
    return renamed
