"""CLIP: pictures and texts -> projected features, for the alignment scores and CMMD."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from ..encoders import vision_fingerprint
from ..resize import resize_and_crop
from .precision import in_full_precision
from .transformer import FILES, build, weights_file
from .weights import file_hash, read_weights, shape_of

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_LETTERS = {768: "b", 1024: "l", 1280: "h", 1408: "g", 1664: "bigg"}
_TEXTS_AT_ONCE = 256
_KIND = "a whole CLIP model in the layout of transformers' CLIPModel"


class Clip:
    """A CLIP model with both projections; see `FeatureNetwork`. Nothing is normalised."""

    def __init__(self, model: CLIPModel, weights: str, tokenizer: CLIPTokenizer | None):
        vision: Any = model.config.vision_config
        self.model, self.weights, self.tokenizer = model, weights, tokenizer
        self.size = vision.image_size
        self.name = _name(vision.hidden_size, vision.patch_size, vision.image_size)
        self.resize = f"clip-{self.size}"
        self.outputs = {"image": model.config.projection_dim}

    @cached_property
    def encoder(self) -> str:
        """Fingerprint of the vision tower, the same for all files that hold it."""
        return vision_fingerprint(self.model.state_dict())

    @in_full_precision
    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """uint8 [B, 3, H, W] -> "image" float32 [B, D]."""
        pixels = resize_and_crop(pixels, self.size, self.size).to(self.model.device).float()
        mean, std = (pixels.new_tensor(v).view(3, 1, 1) for v in (_MEAN, _STD))
        pixels = (pixels / 255 - mean) / std
        return {"image": _features(self.model.get_image_features(pixel_values=pixels))}

    @in_full_precision
    def text(self, texts: Sequence[str]) -> Tensor:
        """Texts -> float32 [len(texts), D]; what is longer than the context is cut off.

        Raises:
            ValueError: no texts, or no tokenizer.
        """
        if self.tokenizer is None:
            raise ValueError(
                f"{self.name} was loaded without a tokenizer, so it cannot read texts. Give the "
                "folder that holds vocab.json and merges.txt."
            )
        if not texts:
            raise ValueError("Got no texts; expected at least one.")
        parts = range(0, len(texts), _TEXTS_AT_ONCE)
        return torch.cat([self._text(list(texts[i : i + _TEXTS_AT_ONCE])) for i in parts])

    def _text(self, texts: list[str]) -> Tensor:
        assert self.tokenizer is not None
        config: Any = self.model.config.text_config
        length = config.max_position_embeddings
        tokens = self.tokenizer(
            texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).to(self.model.device)
        # Padding comes after the end token, which attention lets look back only: no mask needed.
        return _features(self.model.get_text_features(input_ids=tokens["input_ids"]))


def load_clip(
    path: str | Path,
    tokenizer: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> Clip:
    """CLIP of one file, or of a folder as transformers saves it.

    A config.json of CLIP beside the file is followed if the file is called as transformers calls
    it, so has a folder of its own; without one, the sizes are read off the tensors, and the
    activation is the one that published models of the size use (OpenAI's up to L, OpenCLIP's
    above).

    Args:
        tokenizer: folder with vocab.json and merges.txt; needed for `Clip.text` alone.

    Raises:
        ValueError: no whole CLIP model, or a tokenizer of another vocabulary.
        FileNotFoundError: there is no such file.
    """
    file = weights_file(path)
    tensors = {k: v for k, v in read_weights(file).items() if not k.endswith("position_ids")}
    beside = _config_beside(file)
    config = beside or _config_of(tensors, file)
    model = build(CLIPModel, config, tensors, file, _KIND).to(device)
    words = None if tokenizer is None else _load_tokenizer(Path(tokenizer), model)
    weights = file_hash(file)
    if beside:  # the features depend on it too
        weights += f"+{file_hash(file.with_name('config.json'))}"
    return Clip(model, weights, words)


def _config_beside(file: Path) -> CLIPConfig | None:
    path = file.with_name("config.json")
    if file.name not in FILES or not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} beside {file.name} is damaged: {error}.") from error
    is_clip = isinstance(content, dict) and content.get("model_type") == "clip"
    return CLIPConfig.from_dict(content) if is_clip else None


def _config_of(tensors: Mapping[str, Tensor], file: Path) -> CLIPConfig:
    """The config that the shapes of the tensors imply."""

    def shape(key: str, dimensions: int = 2) -> tuple[int, ...]:
        return shape_of(tensors, key, dimensions, file, _KIND)

    patch = shape("vision_model.embeddings.patch_embedding.weight", 4)[-1]
    positions = shape("vision_model.embeddings.position_embedding.weight")[0]
    vocabulary, text_width = shape("text_model.embeddings.token_embedding.weight")
    projection, width = shape("visual_projection.weight")
    activation = "quick_gelu" if width <= 1024 else "gelu"
    vision = {
        "hidden_size": width,
        "intermediate_size": shape("vision_model.encoder.layers.0.mlp.fc1.weight")[0],
        "num_hidden_layers": _count_layers(tensors, "vision_model."),
        "num_attention_heads": max(1, width // 64) if width <= 1024 else 16,
        "patch_size": patch,
        "image_size": round((positions - 1) ** 0.5) * patch,
        "hidden_act": activation,
    }
    text = {
        "hidden_size": text_width,
        "intermediate_size": shape("text_model.encoder.layers.0.mlp.fc1.weight")[0],
        "num_hidden_layers": _count_layers(tensors, "text_model."),
        "num_attention_heads": max(1, text_width // 64),
        "vocab_size": vocabulary,
        "max_position_embeddings": shape("text_model.embeddings.position_embedding.weight")[0],
        "hidden_act": activation,
        "eos_token_id": vocabulary - 1,
    }
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection)


def _count_layers(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return sum(k.startswith(prefix) and k.endswith(".layer_norm1.weight") for k in tensors)


def _load_tokenizer(folder: Path, model: CLIPModel) -> CLIPTokenizer:
    missing = [n for n in ("vocab.json", "merges.txt") if not (folder / n).is_file()]
    if missing:
        raise ValueError(
            f"The tokenizer folder {folder.name} lacks {' and '.join(missing)}. Give the folder "
            "that holds both."
        )
    tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    config: Any = model.config.text_config
    vocabulary = config.vocab_size
    if len(tokenizer) != vocabulary:
        raise ValueError(
            f"The tokenizer in {folder.name} knows {len(tokenizer)} tokens and the CLIP model "
            f"{vocabulary}. Give the tokenizer that belongs to the model."
        )
    return tokenizer


def _features(output) -> Tensor:
    """Features of `get_*_features`: a tensor from transformers 4, an object from 5."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _name(width: int, patch: int, size: int) -> str:
    name = f"clip-vit-{_LETTERS.get(width, width)}-{patch}"
    return name if size == 224 else f"{name}-{size}"
