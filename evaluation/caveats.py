"""Where a number means little: the warnings of a report, each with what to do instead.

The thresholds are those of the estimators' behaviour: the rank of 2,048-dimensional covariances,
the 10,000 pictures below which published FIDs are not comparable (arXiv 1706.08500), the bias of
the Inception Score with few pictures a split (arXiv 1801.01973), and the FID that JPEG files alone
cost (arXiv 2104.11222).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COMPARABLE = 10_000  # pictures; the least that published FIDs use
PER_SPLIT = 50  # pictures in a split of the Inception Score
KID_MINIMUM = 50  # pictures
CMMD_NETWORK = "clip-vit-l-14-336"
_LOSSY = {"JPEG", "WEBP"}
_TITLES = {
    "fid": "FID",
    "fid_infinity": "FID-infinity",
    "kid": "KID",
    "is": "Inception Score",
    "precision": "precision",
    "recall": "recall",
}
SIZED = tuple(_TITLES)  # metrics that papers give with 10,000 pictures or more


def rank(generated: int, real: int | None, dim: int) -> list[str]:
    """Warning on fewer pictures than FID's covariances need.

    Args:
        real: None where a statistics file does not tell.
        dim: of the features.
    """
    if min(generated, generated if real is None else real) > dim:
        return []
    return [
        f"FID: {_counts(generated, real)} pictures are fewer than the {dim + 1} that {dim} "
        "features need, so the value is rank-deficient and biased upwards. Compare it only at "
        "equal n, and prefer KID, which has no such bias."
    ]


def comparable(generated: int, real: Mapping[str, int | None]) -> list[str]:
    """One warning that names all metrics of fewer pictures than papers use.

    Args:
        real: metric -> real pictures behind it; None where it has none, or nothing tells.
    """
    few = {m: n for m, n in real.items() if min(generated, n or generated) < COMPARABLE}
    if not few:
        return []
    least = min((n for n in few.values() if n is not None), default=None)
    return [
        f"{', '.join(_TITLES[metric] for metric in few)}: {_counts(generated, least)} pictures; "
        f"below {COMPARABLE:,} the value is not comparable with papers. Compare it with your own "
        "runs at equal n."
    ]


def extrapolated(real: int | None) -> list[str]:
    """Warning on FID-infinity with few real pictures."""
    if real is None or real >= COMPARABLE:
        return []
    return [
        f"FID-infinity of {real} real pictures: it removes the bias of the generated pictures' "
        "number only, and that of the real ones stays. Give more real pictures, or the "
        "statistics of a whole data set."
    ]


def precision_features(name: str) -> list[str]:
    """Warning on other features than those of the paper (arXiv 1904.06991)."""
    return [
        f"Precision and recall are of {name}; the paper's are of VGG-16. Do not compare with its "
        "values."
    ]


def _counts(generated: int, real: int | None) -> str:
    return f"{generated} generated" + ("" if real is None else f", {real} real")


def too_few_for_fid(generated: int, real: int | None, minimum: int) -> str:
    """Reason for giving no FID; "" when there are enough."""
    if generated >= minimum and (real is None or real >= minimum):
        return ""
    return (
        f"fewer than {minimum} pictures ({_counts(generated, real)}): its bias would be larger "
        "than any difference. Use KID, or more pictures"
    )


def few_for_kid(generated: int, real: int | None) -> list[str]:
    """Warning on a KID whose scatter between sets is as large as real differences."""
    if min(generated, real or generated) >= KID_MINIMUM:
        return []
    return [
        f"KID of {_counts(generated, real)} pictures: below {KID_MINIMUM} it scatters by as much "
        "as models differ. Use more pictures."
    ]


def inception_splits(pictures: int, splits: int) -> list[str]:
    """Warning on splits that are too small."""
    if splits * PER_SPLIT <= pictures:
        return []
    fitting = max(1, pictures // PER_SPLIT)
    return [
        f"Inception Score: {splits} splits of {pictures} pictures; a split of {pictures // splits} "
        f"cannot score above {max(1, pictures // splits)}. Use {fitting} "
        f"split{'s' if fitting > 1 else ''}, or more pictures."
    ]


def mixed_formats(formats: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Warning on JPEG (or WebP) among lossless pictures, within a source or between two.

    Args:
        formats: source -> format -> pictures.
    """
    kinds = {kind for counts in formats.values() for kind in counts}
    if not kinds & _LOSSY or kinds <= _LOSSY and len(kinds) == 1:
        return []
    listed = "; ".join(
        f"{source}: " + ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))
        for source, counts in formats.items()
    )
    return [
        f"Mixed file formats ({listed}). Compression alone moves the FID (JPEG at quality 75 "
        "against PNG: about 20). Save all pictures in one lossless format, or all by the same "
        "encoder and quality."
    ]


def mixed_sizes(source: str, sizes: Mapping[tuple[int, int], int], skipped: bool) -> list[str]:
    """Warning on pictures of several sizes."""
    if len(sizes) < 2:
        return []
    common = max(sizes, key=lambda size: sizes[size])
    others = sum(sizes.values()) - sizes[common]
    done = "were left out" if skipped else "were resized like the others"
    return [
        f"{source}: pictures of {len(sizes)} sizes; {others} are not {common[0]}x{common[1]} and "
        f"{done}. Resampling changes the features; prefer one size."
    ]


def same_encoder(metric: str, network: Any, conditioning: Sequence[str]) -> list[str]:
    """Warning on scoring with the encoder that conditioned the pictures.

    Args:
        network: known by its name, by its file, or by `encoder`, which copies have in common.
        conditioning: what is known about the encoder.
    """
    known = {network.name, network.weights}
    if not conditioning or not (
        known & {*conditioning} or getattr(network, "encoder", None) in conditioning
    ):
        return []
    return [
        f"{metric} is scored by {network.name}, the encoder that conditioned the pictures: it "
        "rewards what this encoder sees. Score with another network (DINO, or another CLIP)."
    ]


def published_cmmd(name: str) -> list[str]:
    """Warning on CMMD of another network than the paper's (arXiv 2401.09603)."""
    if name == CMMD_NETWORK:
        return []
    return [f"CMMD of {name}; published values are of {CMMD_NETWORK}. Do not compare with them."]


def unequal_points(counts: Sequence[int]) -> list[str]:
    """Warning on points of one report with different numbers of pictures."""
    if len(set(counts)) < 2:
        return []
    return [
        f"The points have different numbers of pictures ({min(counts)} to {max(counts)}): FID, "
        "precision, recall and Inception Score depend on it. Compare them at equal n only."
    ]


def stand_ins(metrics: Sequence[str]) -> list[str]:
    """Warning on real pictures in the place of references."""
    return [
        f"{', '.join(metrics)}: compared with the real pictures, as no references are given. For "
        "several identities give references, with a folder for each."
    ]


def few(metric: str, missing: int, of: int, what: str) -> list[str]:
    """Warning on pictures that have no value."""
    return (
        [f"{metric}: {missing} of {of} pictures have no {what} and do not count."]
        if missing
        else []
    )
