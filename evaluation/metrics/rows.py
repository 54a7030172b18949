"""What every metric asks of the features that it gets, before it computes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor

_CHECKED = 4096  # rows


class Rows(Protocol):
    """What a tensor [N, D] and features that stay on disk have in common."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor: ...


AnyRows = TypeVar("AnyRows", bound=Rows)
OtherRows = TypeVar("OtherRows", bound=Rows)


def check_features(features: AnyRows, what: str, minimum: int = 2) -> AnyRows:
    """The same features on the CPU, without gradients, in their own dtype.

    Args:
        features: [N, D], floating point, one row per picture.
        what: the features' name in messages, e.g. "generated".
        minimum: smallest N that the caller can use.

    Raises:
        ValueError: another shape or dtype, too few pictures, NaN or infinity.
    """
    shape = features.shape
    if len(shape) != 2 or not features.dtype.is_floating_point or shape[1] == 0:
        raise ValueError(
            f"The {what} features are {list(shape)} of {features.dtype}; expected "
            "[pictures, values] of a floating-point type. Pass one row per picture."
        )
    if len(features) < minimum:
        raise ValueError(
            f"Got {len(features)} {what} picture(s); expected at least {minimum}. Add pictures, "
            "or leave this metric out."
        )
    if isinstance(features, Tensor):
        features = cast(AnyRows, features.detach().cpu())
    # Block by block, as the check needs several times the memory of what it looks at.
    parts = (features[start : start + _CHECKED] for start in range(0, len(features), _CHECKED))
    bad = torch.cat([~part.isfinite().all(dim=1) for part in parts])
    if bad.any():
        rows = bad.nonzero().flatten().tolist()
        raise ValueError(
            f"{len(rows)} of {len(features)} {what} pictures have NaN or infinite features (first "
            f"rows: {rows[:5]}); expected finite numbers. Run the feature network in float32, and "
            "check its weights file."
        )
    return features


def check_pair(
    x: AnyRows,
    y: OtherRows,
    names: tuple[str, str] = ("generated", "real"),
    minimum: int = 2,
) -> tuple[AnyRows, OtherRows]:
    """Both sets of features checked, and of the same width.

    Raises:
        ValueError: as `check_features`, or the widths differ.
    """
    x, y = check_features(x, names[0], minimum), check_features(y, names[1], minimum)
    check_width(x.shape[1], y.shape[1], names)
    return x, y


def check_width(got: int, expected: int, names: tuple[str, str] = ("generated", "real")) -> None:
    """Refuse features of two widths.

    Raises:
        ValueError: they differ.
    """
    if got != expected:
        raise ValueError(
            f"The {names[0]} features have {got} values per picture and the {names[1]} features "
            f"{expected}; expected the same number. Compute both with the same network and output."
        )


def unit_rows(features: Tensor, what: str, first: int = 0) -> Tensor:
    """Rows scaled to length 1, float64; `first` is the number of the first one, for the message.

    Raises:
        ValueError: a row of zeros, which has no direction.
    """
    features = features.double()
    length = features.norm(dim=1, keepdim=True)
    if not length.all():
        row = first + int((length == 0).nonzero()[0, 0])
        raise ValueError(
            f"The {what} features of picture {row} are all zero; expected a direction to compare. "
            "Check the feature network's weights file."
        )
    return features / length


def blocks(features: Rows, rows: int, start: int = 0) -> Iterator[Tensor]:
    """Consecutive rows in float64, so that a large set is never read or converted at once."""
    return (features[i : i + rows].double() for i in range(start, len(features), rows))
