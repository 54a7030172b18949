"""Pictures -> the features of their faces that FaceID, portrait and InstantID adapters read."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from torch import Tensor

from ...faces.align import aligned_transform, warp
from ...faces.analysis import Face, FaceAnalyser
from ...faces.find import is_usable, main_face
from ...faces.quality import measure
from ...models.projection import FACE, HIDDEN, ProjectionConfig
from ...models.references import ReferenceEmbeds, average_face
from ...pictures.decode import UnusablePicturesError
from ...pictures.pixels import to_bytes, to_floats
from .key_values import LoadedAdapter
from .vision import encode, encode_null

log = logging.getLogger("MultiIPAdapter")

FACE_EMBEDDINGS = ("each", "mean", "quality-weighted mean")
_FACEID, _INSTANTID = "w600k_r50", "glintr100"  # recognisers of buffalo_l and antelopev2
_CROP = 224  # pixels: the side of the aligned face that FaceID-Plus was trained on, SDXL's too
_SHOWN = 5


class FaceFeatures(NamedTuple):
    """Features of the face of each of N pictures (`main_face`).

    embeds: the recogniser's output, float32 [N, D].
    crops: the aligned face in 0..1, float32 [N, size, size, 3]; None where not asked for.
    quality: by size, sharpness, pose and detector score (`Quality.total`), float32 [N].
    places: of the pictures among all that were given, [N].
    without: names of the others, which show no face, or none that can be recognised.
    """

    embeds: Tensor
    crops: Tensor | None
    quality: Tensor
    places: list[int]
    without: list[str]


def check_recogniser(analyser: FaceAnalyser) -> None:
    """Refuse an analyser that cannot embed.

    Raises:
        ValueError: it has no recogniser.
    """
    if not analyser.recogniser:
        raise ValueError(
            f"{analyser.name} finds faces but has no recogniser, and the adapter reads face "
            "embeddings. Load a pack that has one (buffalo_l or antelopev2) in the face analysis "
            "node."
        )


def check_analyser(analyser: FaceAnalyser, loaded: LoadedAdapter) -> str:
    """As `check_recogniser`; and `warn_of_recogniser`.

    Raises:
        ValueError: it has no recogniser.
    """
    check_recogniser(analyser)
    return warn_of_recogniser(loaded, analyser.recogniser)


def warn_of_recogniser(loaded: LoadedAdapter, recogniser: str) -> str:
    """Log, and give, what is wrong if face embeddings are not of the adapter's recogniser."""
    wanted = _recognisers(loaded)
    if recogniser in wanted:
        return ""
    text = (
        f"{loaded.name} reads faces of the recogniser {' or '.join(wanted)}; got {recogniser}, "
        "whose embeddings mean something else. The pictures will hardly resemble the person. "
        "Encode them with the other pack."
    )
    log.warning(text)
    return text


def _recognisers(loaded: LoadedAdapter) -> tuple[str, ...]:
    """Portrait-unnorm and InstantID have the same shapes: only the file's name may tell."""
    if loaded.config.recogniser:
        return (loaded.config.recogniser,)
    if not loaded.config.projection.face_input:
        return (_FACEID,)
    name = loaded.name.lower().replace("-", "").replace("_", "")
    if "instantid" in name:
        return (_INSTANTID,)
    return (_FACEID,) if "faceid" in name or "portrait" in name else (_FACEID, _INSTANTID)


def encode_faces(
    analyser: FaceAnalyser,
    clip_vision,
    images: Mapping[str, Tensor],
    projection: ProjectionConfig,
    weights: Tensor,
    how: str = "each",
) -> tuple[ReferenceEmbeds, str]:
    """References for an adapter that reads face embeddings, and which pictures were left out.

    Args:
        images: by input name, each [b, H, W, 3] in 0..1; N pictures in all.
        weights: of the pictures [N].
        how: one of `FACE_EMBEDDINGS`; with a mean there is one reference, whose hidden states
            (FaceID-Plus) are those of the picture that weighs most.

    Raises:
        ValueError: no picture shows a face, or a recogniser of another width.
    """
    if how not in FACE_EMBEDDINGS:
        raise ValueError(
            f"Got face_embeddings {how!r}; expected one of {', '.join(FACE_EMBEDDINGS)}."
        )
    reads_crops = HIDDEN in projection.inputs
    found = read_faces(analyser, images, _CROP if reads_crops else 0)
    width = projection.widths[FACE]
    if found.embeds.shape[1] != width:
        raise ValueError(
            f"{analyser.name} gives face embeddings of width {found.embeds.shape[1]}; the adapter "
            f"reads {width}. Load the pack that the adapter was made with."
        )
    features, null = {FACE: found.embeds}, {FACE: torch.zeros(1, width)}
    if found.crops is not None:
        features |= encode(clip_vision, {"faces": found.crops}, "crop", (HIDDEN,), False)
        null |= encode_null(clip_vision, (HIDDEN,))
    weights = weights[found.places]
    references = ReferenceEmbeds(features, null, weights, analyser.recogniser)
    left_out = _warn_of_faceless(found)
    if how == "each":
        return references, left_out
    shares = weights if how == "mean" else weights * found.quality
    return average_face(references, shares, found.quality), left_out


def _warn_of_faceless(found: FaceFeatures) -> str:
    """Log, and give, which pictures were left out."""
    if not found.without:
        return ""
    text = (
        f"Left out, as no usable face was found: {_listed(found.without)}. Encoded are the other "
        f"{len(found.places)}."
    )
    log.warning(text)
    return text


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{'; '.join(names[:_SHOWN])}{more}"


def read_faces(analyser: FaceAnalyser, images: Mapping[str, Tensor], size: int = 0) -> FaceFeatures:
    """Find the face of each picture (`main_face`); those without one are left out.

    Args:
        size: side of the aligned crops; 0: none.

    Raises:
        ValueError: none shows a face.
    """
    places = [(name, i) for name, stack in images.items() for i in range(len(stack))]
    progress = comfy.utils.ProgressBar(len(places))
    embeds, crops, quality, kept, without = [], [], [], [], []
    faces = 0
    for place, (name, i) in enumerate(places):
        comfy.model_management.throw_exception_if_processing_interrupted()
        picture = to_bytes(images[name][i])
        face = main_face(analyser, picture)
        faces += face is not None
        found = None if face is None else embedding(analyser, picture, face)
        if face is not None and found is not None:
            embeds.append(found)
            quality.append(measure(picture, face).total)
            kept.append(place)
            if size:
                crops.append(aligned_face(picture, face, size))
        else:
            without.append(f"{name}, picture {i + 1} of {len(images[name])}")
        progress.update(1)
    if faces and not kept:
        raise ValueError(
            f"{analyser.name} gives no usable numbers for any face (NaN, infinite, or all 0). Its "
            "files are damaged; download the pack again."
        )
    if not kept:
        raise ValueError(
            f"Found no face in {_listed(without)}. This adapter reads faces: give pictures that "
            "show one, or pass them, uncut, through Prepare Faces with crop = loose, which says "
            "what it finds in each."
        )
    pixels = to_floats(np.stack(crops)) if size else None
    return FaceFeatures(torch.stack(embeds), pixels, torch.tensor(quality), kept, without)


def embed_pictures(analyser: FaceAnalyser, pictures: Tensor) -> Tensor:
    """Training pictures uint8 [b, H, W, 3] -> embeddings of their faces (`main_face`) [b, D].

    Raises:
        UnusablePicturesError: some show no face.
    """
    embeds, without = [], {}
    for i, picture in enumerate(pictures.cpu().numpy()):
        comfy.model_management.throw_exception_if_processing_interrupted()
        face = main_face(analyser, picture)
        found = None if face is None else embedding(analyser, picture, face)
        if face is None:
            without[i] = "no face was found in it."
        elif found is None:
            without[i] = "the recogniser gives no usable numbers for its face."
        else:
            embeds.append(found)
    if without:
        raise UnusablePicturesError(without)
    return torch.stack(embeds)


def embedding(analyser: FaceAnalyser, picture: np.ndarray, face: Face) -> Tensor | None:
    """float32 [D]; None where the recogniser's output is no usable one."""
    found = analyser.embed(picture, face)
    return torch.from_numpy(found).float() if is_usable(found) else None


def aligned_face(picture: np.ndarray, face: Face, size: int) -> np.ndarray:
    """What FaceID-Plus was trained on: insightface's aligned crop, uint8 [size, size, 3].

    A black border goes on beyond the picture, as there; `warp` alone repeats the picture's own.
    """
    framed = np.pad(picture, ((1, 1), (1, 1), (0, 0)))
    moved = Face(face.box + 1, face.landmarks + 1, face.score)
    return warp(framed, aligned_transform(moved, size), size, smooth=False)
