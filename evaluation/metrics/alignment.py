"""Embeddings of pictures, references and prompts in, similarities per generated picture out.

A single picture is enough here; each value belongs to one picture, float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .rows import check_features, check_pair, check_width, unit_rows

CLIP_SCORE_WEIGHT = 2.5
_TOLERANCE = 1e-6  # radians; below it, reference and target are the same picture


def image_alignment(generated: Tensor, references: Tensor) -> Tensor:
    """Mean cosine of each generated picture [N, D] to all references [R, D] of its identity: [N].

    The mean over pictures is the full cosine matrix's: Image Alignment of Textual Inversion's code
    (arXiv 2208.01618) and of Custom Diffusion (arXiv 2212.04488) with CLIP B/32 embeddings, and
    DreamBooth's DINO score (arXiv 2208.12242) with DINO's.

    Raises:
        ValueError: unusable features.
    """
    x, y = _units(generated, references, ("generated", "reference"))
    return x @ y.mean(dim=0)


def text_alignment(images: Tensor, texts: Tensor) -> Tensor:
    """Cosine of each picture [N, D] to its prompt [N, D], or to the one prompt [1, D]: [N].

    Text Alignment of Textual Inversion's code (arXiv 2208.01618), CLIP B/32.

    Raises:
        ValueError: unusable features, or another number of prompts.
    """
    x, y = _units(images, texts, ("generated", "prompt"))
    return (x * _one_each(y, len(x), "prompt")).sum(dim=1)


def clip_score(images: Tensor, texts: Tensor) -> Tensor:
    """CLIPScore, 2.5 max(cosine, 0) (arXiv 2104.08718): Custom Diffusion's Text Alignment, [N].

    Raises:
        ValueError: as `text_alignment`.
    """
    return CLIP_SCORE_WEIGHT * text_alignment(images, texts).clamp_min(0)


class IdentitySimilarity(NamedTuple):
    """Similarity of faces.

    Attributes:
        per_image: [N], NaN where no face was found.
        mean: over the pictures with a face, NaN if there is none.
        detection_rate: share of pictures with a face.
    """

    per_image: Tensor
    mean: float
    detection_rate: float


def identity_similarity(generated: Tensor, found: Tensor, references: Tensor) -> IdentitySimilarity:
    """Mean cosine of each generated face to the reference faces of its identity.

    A picture without a face has no similarity: it lowers the detection rate, never the mean.

    Args:
        generated: [N, D] face embeddings; rows without a face are not looked at.
        found: [N], true where a face was found.
        references: [R, D], all of them with a face.

    Raises:
        ValueError: unusable features, or another number of marks.
    """
    found = found.detach().cpu()
    if found.dtype != torch.bool or found.shape != generated.shape[:1]:
        raise ValueError(
            f"Got {list(found.shape)} marks of {found.dtype} for {len(generated)} pictures; "
            "expected one true or false per picture. Pass the detector's marks of these pictures."
        )
    similarity = torch.full((len(generated),), torch.nan, dtype=torch.float64)
    if found.any():
        similarity[found] = image_alignment(generated.detach().cpu()[found], references)
    return IdentitySimilarity(
        similarity, similarity[found].mean().item(), found.double().mean().item()
    )


def copy_paste(generated: Tensor, references: Tensor, targets: Tensor) -> Tensor:
    """Does a picture repeat its reference instead of showing the person? WithAnyone's metric, [N].

    (theta_gt - theta_gr) / theta_tr over angles of generated g, target t and reference r
    (arXiv 2510.14975, equation 2): 1 for a copy of the reference, 0 for as near to one as to
    the other, -1 for the target itself. Of several references the nearest to the picture counts,
    which is ours; the paper has one.

    Args:
        generated: [N, D] face embeddings of one identity.
        references: [R, D], what the adapter was given.
        targets: [N, D] or [1, D], the identity's photo that it was not given.

    Raises:
        ValueError: unusable features, or another number of targets.
    """
    g, r = _units(generated, references, ("generated", "reference"))
    t = unit_rows(check_features(targets, "target", minimum=1), "target")
    check_width(t.shape[1], g.shape[1], ("target", "generated"))
    t = _one_each(t, len(g), "target").expand_as(g)
    nearest = r[(g @ r.T).argmax(dim=1)]
    return (_angle(g, t) - _angle(g, nearest)) / _angle(t, nearest).clamp_min(_TOLERANCE)


def nearest_reference_margin(generated: Tensor, references: Tensor) -> Tensor:
    """How much nearer each picture is to one reference than to the others, [N].

    Greatest cosine minus the mean cosine to the other references: our stand-in for `copy_paste`
    where no photo was held out. Near 0 if a picture takes from all references alike.

    Args:
        generated: [N, D] embeddings of one identity.
        references: [R, D], R >= 2.

    Raises:
        ValueError: unusable features, or a single reference.
    """
    check_features(references, "reference", minimum=2)
    x, y = _units(generated, references, ("generated", "reference"))
    cosines = x @ y.T
    nearest = cosines.amax(dim=1)
    return nearest - (cosines.sum(dim=1) - nearest) / (len(y) - 1)


def _units(x: Tensor, y: Tensor, names: tuple[str, str]) -> tuple[Tensor, Tensor]:
    x, y = check_pair(x, y, names, minimum=1)
    return unit_rows(x, names[0]), unit_rows(y, names[1])


def _one_each(features: Tensor, n: int, what: str) -> Tensor:
    if len(features) not in (1, n):
        raise ValueError(
            f"Got {len(features)} {what} embeddings for {n} pictures; expected {n}, or 1 for all. "
            f"Pass each picture's {what}, in the pictures' order."
        )
    return features


def _angle(x: Tensor, y: Tensor) -> Tensor:
    """Angles between unit rows, [N]; exact for near rows, unlike the arc cosine."""
    return 2 * torch.atan2((x - y).norm(dim=1), (x + y).norm(dim=1))
