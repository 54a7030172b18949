"""An encoded identity: image-encoder features of N references, ready for any matching adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..files.tensors import read_tensors, write_safetensors
from .projection import FACE

METADATA_KEY = "multi_ipadapter_references"
FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class ReferenceEmbeds:
    """Features before the adapter's projection, so that other adapters can use them too.

    Attributes:
        features: by name (see `projection`), each [N, ...].
        null: features of the null image that the adapters were trained with, each [1, ...].
        weights: positive weight of each reference [N], float32.
        recogniser: name of the embedding space of the faces; "" without faces, or not known.
    """

    features: Mapping[str, Tensor]
    null: Mapping[str, Tensor]
    weights: Tensor
    recogniser: str = ""

    @property
    def num_references(self) -> int:
        """N."""
        return self.weights.shape[0]

    def first(self, count: int) -> ReferenceEmbeds:
        """The first `count` references."""
        features = {name: x[:count] for name, x in self.features.items()}
        return replace(self, features=features, weights=self.weights[:count])


def average_face(references: ReferenceEmbeds, weights: Tensor, quality: Tensor) -> ReferenceEmbeds:
    """One reference in place of N of the same person: the weighted mean of the face embeddings.

    Directions are averaged, as lengths say how clear a picture is and not who is in it; the result
    is as long as the embeddings are on average. Other features are those of the reference that
    weighs most: patches of different pictures do not show the same thing at the same place.

    Args:
        weights: of the references [N]; positive.
        quality: of the references [N]; says which of those that weigh alike is the best.
    """
    share = (weights / weights.sum()).to(references.features[FACE]).unsqueeze(1)  # [N, 1]
    faces = references.features[FACE]  # [N, D]
    length = (share * faces.norm(dim=1, keepdim=True)).sum(0)
    mean = F.normalize((share * F.normalize(faces, dim=1)).sum(0), dim=0) * length  # [D]
    best = int(torch.where(weights == weights.max(), quality, -torch.inf).argmax())
    features = {name: x[best : best + 1] for name, x in references.features.items()}
    return replace(references, features=features | {FACE: mean[None]}, weights=torch.ones(1))


def parse_weights(text: str, count: int) -> Tensor:
    """Weights written as "1, 0.5, 2" -> [count] float32; nothing written: all 1.

    Raises:
        ValueError: not `count` numbers, or one of them is not positive and finite.
    """
    words = text.replace(",", " ").replace(";", " ").split()
    if not words:
        return torch.ones(count)
    try:
        weights = [float(word) for word in words]
    except ValueError as error:
        raise ValueError(
            f'Got reference weights "{text}"; expected numbers separated by commas, '
            'one for each reference image, such as "1, 0.5".'
        ) from error
    return check_weights(weights, count)


def check_weights(weights: Sequence[float], count: int) -> Tensor:
    """See `parse_weights`."""
    if len(weights) != count:
        raise ValueError(
            f"Got {len(weights)} reference weights for {count} reference images; expected one "
            "for each image, or none at all to weigh them alike."
        )
    tensor = torch.tensor(list(weights), dtype=torch.float32)
    if not (torch.isfinite(tensor) & (tensor > 0)).all():
        raise ValueError(
            f"Got reference weights {list(weights)}; expected positive numbers. To leave a "
            "reference out, disconnect its image."
        )
    return tensor


def save_references(references: ReferenceEmbeds, path: str | Path) -> None:
    """Write an identity as one safetensors file."""
    tensors = {f"features.{k}": v for k, v in references.features.items()}
    tensors |= {f"null.{k}": v for k, v in references.null.items()}
    tensors["weights"] = references.weights
    about = {"format_version": FORMAT_VERSION, "recogniser": references.recogniser}
    write_safetensors(path, tensors, {METADATA_KEY: json.dumps(about)})


def load_references(path: str | Path) -> ReferenceEmbeds:
    """Read what `save_references` wrote.

    Raises:
        ValueError: the file is damaged or holds something else.
    """
    path = Path(path)
    tensors, metadata = read_tensors(path)
    if METADATA_KEY not in metadata or "weights" not in tensors:
        raise ValueError(
            f"{path.name} holds no encoded references; expected a file that the node "
            "'Save References' wrote."
        )
    features = {k.removeprefix("features."): v for k, v in tensors.items() if k[:9] == "features."}
    null = {k.removeprefix("null."): v for k, v in tensors.items() if k[:5] == "null."}
    count = tensors["weights"].numel()
    fits = all(
        name in null and null[name].shape == (1, *value.shape[1:]) and value.shape[:1] == (count,)
        for name, value in features.items()
    )
    if not features or not count or tensors["weights"].ndim != 1 or not fits:
        shapes = {name: tuple(value.shape) for name, value in sorted(tensors.items())}
        raise ValueError(
            f"{path.name} is damaged: its tensors have the shapes {shapes}; expected weights [N], "
            "features [N, ...] and null [1, ...]. Encode the images again."
        )
    try:
        weights = check_weights(tensors["weights"].tolist(), count)
        about = json.loads(metadata[METADATA_KEY])
    except ValueError as error:
        raise ValueError(f"{path.name} is damaged: {error}") from error
    recogniser = about.get("recogniser", "") if isinstance(about, dict) else ""
    return ReferenceEmbeds(features, null, weights, str(recogniser))
