"""Faces of many pictures -> the one of each that shows the person most pictures share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

# Least cosine of two faces of a person, and of a face and the mean of its person's. Pairs of one
# person have 0.4 to 0.6 in the median, strangers up to 0.2 (recognisers of the published packs,
# arXiv 1801.07698, 2510.14975); the mean is closer to all.
ALIKE, SAME_PERSON = 0.35, 0.4
# What is asked on a tie: in a handful of difficult pictures too few pairs of the person pass.
_TIED = ((0.3, 0.35), (0.25, 0.3))
_SEEDS = 1000  # faces that are asked who else shows their person; bounds the memory
# Two crops of one face that differ in little but size, light or compression.
_ALIKE, _ALIKE_UNRECOGNISED = 0.95, 0.98
_SAME_EMBEDDING = 0.9
_SIGNATURE = 16  # side of the compared crops in pixels


class Majority(NamedTuple):
    """The face of each picture that shows the person, by the picture's number.

    tied: as many pictures show somebody else.
    unsure: it was a tie until less likeness was asked for.
    """

    faces: dict[int, int]
    tied: bool
    unsure: bool = False


def majority(
    embeddings: np.ndarray,
    pictures: Sequence[int],
    sizes: Sequence[float],
    copies: Collection[int] = (),
) -> Majority:
    """The faces of the identity that most pictures share, at most one for each picture.

    Every face asks who is `ALIKE`, and the mean of those asks who is the `SAME_PERSON`. A picture
    answers with the face that is closest. Where as many pictures share another identity, all ask
    again for lower cosines; if that does not decide, or only by taking two groups for one person,
    the identity whose faces are larger counts, then the one that comes first.

    Args:
        embeddings: [n, width], of any length but 0.
        pictures: number of the picture that each face is in.
        sizes: of the faces, in pixels.
        copies: faces that repeat one of another picture: they go along, but do not vote.
    """
    if not len(embeddings):
        return Majority({}, False)
    order = np.argsort(pictures, kind="stable")
    units, numbers = unit(embeddings)[order], np.asarray(pictures)[order]
    votes = 1 - np.isin(order, list(copies))
    members, equal = _asked(units, numbers, votes, ALIKE, SAME_PERSON)
    tied = members[:, equal]
    for least in _TIED if len(equal) > 1 else ():
        asked, winners = _asked(units, numbers, votes, *least)
        if len(winners) == 1:
            if not _joins(asked[:, winners[0]], tied, votes):
                members, equal = asked, winners
            break
    counted = np.asarray(sizes)[order] * votes
    best = max(equal, key=lambda n: (counted @ members[:, n], -order[members[:, n]].min()))
    faces = {int(numbers[i]): int(order[i]) for i in np.flatnonzero(members[:, best])}
    return Majority(faces, len(equal) > 1, tied.shape[1] > len(equal))


def _joins(person: np.ndarray, groups: np.ndarray, votes: np.ndarray) -> bool:
    """Whether a person [n] has faces of several groups [n, g] of at least two pictures each.

    Groups that agree within but not with each other are relatives rather than hard pictures of one.
    """
    return votes @ groups[:, 0] > 1 and (person @ groups > 0).sum() > 1


def _asked(units: np.ndarray, pictures: np.ndarray, votes: np.ndarray, alike: float, same: float):
    """Who belongs to the person of each seed [n, seeds], and the seeds that have most votes."""
    seeds = units
    if len(units) > _SEEDS:  # at random: every n-th could be always the larger face of a picture
        chosen = np.random.default_rng(0).choice(len(units), _SEEDS, replace=False)
        seeds = units[np.sort(chosen)]
    around, _ = _members(units, pictures, seeds, alike)
    persons = unit((around * votes[:, None]).T @ units)
    members, closeness = _members(units, pictures, persons, same)
    return members, _most(members, closeness, votes)


def _members(units: np.ndarray, pictures: np.ndarray, persons: np.ndarray, least: float):
    """Which faces [n, seeds] are those of persons, unit [seeds, width], and all cosines.

    Args:
        units: of the faces, those of a picture one after the other.
    """
    closeness = units @ persons.T
    closeness -= 1e-12 * np.arange(len(units))[:, None]  # of equal faces the first
    starts = np.flatnonzero(np.diff(pictures, prepend=pictures[0] - 1))
    closest = np.maximum.reduceat(closeness, starts)
    closest = np.repeat(closest, np.diff(starts, append=len(pictures)), axis=0)
    return (closeness >= least) & (closeness == closest), closeness


def _most(members: np.ndarray, closeness: np.ndarray, votes: np.ndarray) -> list[int]:
    """Seeds of different people whom most pictures show; of each person the closest group."""
    counts = votes @ members
    ranked = np.lexsort((-(closeness * members).sum(0), -counts))
    out: list[int] = []
    for seed in ranked[counts[ranked] == counts.max()]:
        if not any((members[:, seed] & members[:, other]).any() for other in out):
            out.append(int(seed))
    return out


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
    rows = np.array(signatures)
    for place in range(len(rows)):
        for kept in np.flatnonzero(rows[:place] @ rows[place] >= _ALIKE).tolist():
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
