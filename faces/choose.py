"""Faces of many pictures -> the one of each that shows the person most pictures share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Cosine of two faces: about 0.5 to 0.7 for one person and 0 to 0.2 for two, with the recognisers
# of the published packs (arXiv 1801.07698).
SAME_PERSON = 0.35
# Two crops of one face that differ in little but size, light or compression.
_ALIKE, _ALIKE_UNRECOGNISED = 0.95, 0.98
_SAME_EMBEDDING = 0.9
_SIGNATURE = 16  # side of the compared crops in pixels


def majority(
    embeddings: np.ndarray, pictures: Sequence[int], sizes: Sequence[float]
) -> dict[int, int]:
    """The faces of the identity that most pictures share, at most one for each picture.

    Clusters of average linkage whose mean cosine reaches `SAME_PERSON`; no cluster can gain a
    second face of a picture: only the one that is closest to the cluster's mean stays. Of
    identities that as many pictures share, the one whose faces are larger.

    Args:
        embeddings: [n, width], of any length but 0.
        pictures: number of the picture that each face is in.
        sizes: of the faces, in pixels.

    Returns:
        Number of the face by number of the picture.
    """
    if not len(embeddings):
        return {}
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    units = unit(embeddings)
    labels = np.zeros(1, int)
    if len(units) > 1:
        distances = 1 - units @ units.T
        np.fill_diagonal(distances, 0)
        tree = linkage(squareform(distances.clip(0), checks=False), "average")
        labels = fcluster(tree, 1 - SAME_PERSON, "distance")
    clusters = [
        _one_per_picture(np.flatnonzero(labels == label), units, pictures)
        for label in np.unique(labels)
    ]
    return max(
        clusters,
        key=lambda c: (len(c), sum(sizes[face] for face in c.values()), -min(c.values())),
    )


def _one_per_picture(
    faces: np.ndarray, units: np.ndarray, pictures: Sequence[int]
) -> dict[int, int]:
    closeness = units[faces] @ units[faces].mean(0)
    out: dict[int, int] = {}
    for place in np.argsort(-closeness, kind="stable"):
        out.setdefault(int(pictures[faces[place]]), int(faces[place]))
    return dict(sorted(out.items()))


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Rows of length 1, float64; zero rows stay."""
    embeddings = np.asarray(embeddings, np.float64)
    lengths = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return embeddings / np.maximum(lengths, 1e-12)


def signature(crop: np.ndarray) -> np.ndarray:
    """What near-duplicates share: a small grey copy of a crop, mean 0 and length 1, [256].

    Args:
        crop: uint8 [S, S, 3], S a multiple of 16.
    """
    step = crop.shape[0] // _SIGNATURE
    grey = crop @ [0.299, 0.587, 0.114]
    small = grey.reshape(_SIGNATURE, step, _SIGNATURE, step).mean((1, 3)).ravel()
    return unit(small - small.mean())


def near_duplicates(
    signatures: Sequence[np.ndarray], embeddings: Sequence[np.ndarray | None]
) -> dict[int, int]:
    """Which faces repeat a better one.

    Two faces are alike when their signatures correlate to 0.95 and their embeddings to 0.9; 0.98
    where a face has no embedding. A chain of similar faces is not thrown away as a whole: each is
    compared with those that stay.

    Args:
        signatures, embeddings: the best face first.

    Returns:
        Place of the face that stays by place of the one that repeats it.
    """
    out: dict[int, int] = {}
    for place in range(len(signatures)):
        for kept in range(place):
            if kept not in out and _alike(signatures, embeddings, place, kept):
                out[place] = kept
                break
    return out


def _alike(signatures, embeddings, a: int, b: int) -> bool:
    correlation = float(signatures[a] @ signatures[b])
    if embeddings[a] is None or embeddings[b] is None:
        return correlation >= _ALIKE_UNRECOGNISED
    if correlation < _ALIKE:
        return False
    return float(unit(embeddings[a]) @ unit(embeddings[b])) >= _SAME_EMBEDDING
