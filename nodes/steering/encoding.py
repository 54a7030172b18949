"""Pictures -> REFERENCE_EMBEDS, by what the adapter reads of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...faces.analysis import FaceAnalyser
from ...models.projection import FACE, HIDDEN, POOLED
from ...models.references import ReferenceEmbeds, parse_weights
from ..face_features import check_analyser, encode_faces
from ..key_values import LoadedAdapter
from ..vision import check_encoder, check_images, check_widths, encode, encode_null


def encode_references(
    loaded: LoadedAdapter,
    images: Mapping[str, Tensor],
    clip_vision: Any,
    faces: FaceAnalyser | None,
    weights: str = "",
    fit: str = "crop",
    how: str = "each",
) -> tuple[ReferenceEmbeds, str]:
    """The references, and what the user should know of the faces in them; "": nothing.

    Args:
        images: by input name, each [b, H, W, 3] in 0..1; sizes may differ.
        clip_vision, faces: what reads the pictures; an adapter may need one, the other or both.
        weights: one number for each picture, separated by commas; "": all alike.
        fit: see `vision.encode`.
        how: see `face_features.encode_faces`.

    Raises:
        ValueError: what reads the pictures is missing or does not fit the adapter, or pictures
            that cannot be encoded.
    """
    projection = loaded.config.projection
    if FACE not in projection.inputs or faces is None:
        check_encoder(clip_vision, projection)
        names = tuple(dict.fromkeys((*projection.inputs, POOLED)))
        shares = _shares(images, weights)
        features = encode(clip_vision, images, fit, names)
        return ReferenceEmbeds(features, encode_null(clip_vision, names), shares), ""
    told = check_analyser(faces, loaded)
    if HIDDEN in projection.inputs:
        check_widths(clip_vision, projection)
    shares = _shares(images, weights)
    references, left_out = encode_faces(faces, clip_vision, images, projection, shares, how)
    told = "\n".join(filter(None, (told, left_out)))
    return references, told or f"Faces encoded: {len(shares)}"


def _shares(images: Mapping[str, Tensor], weights: str) -> Tensor:
    """Weight of each picture [N], once it is known that all can be encoded."""
    check_images(images)
    return parse_weights(weights, sum(len(image) for image in images.values()))
