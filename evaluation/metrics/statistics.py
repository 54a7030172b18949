"""Features in, mean and covariance out: streamed, and kept in npz files."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...files.atomic import atomically
from .rows import blocks, check_features, check_width

FORMAT = 1
_BLOCK = 4096  # rows converted to float64 at once


class Provenance(NamedTuple):
    """What made the features; statistics are only comparable if all of it is equal.

    Attributes:
        extractor: name of the feature network.
        weights: SHA-256 of its weights file, hexadecimal.
        resize: name of the resize mode.
        output: which of the network's outputs, e.g. "pool".
    """

    extractor: str
    weights: str
    resize: str
    output: str


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution fitted to features.

    Attributes:
        mean: [D], float64.
        covariance: [D, D], float64, divided by n - 1.
        n: number of pictures, None where a file does not tell.
    """

    mean: Tensor
    covariance: Tensor
    n: int | None

    @property
    def dim(self) -> int:
        return len(self.mean)


class GaussianStatistics:
    """Mean and scatter matrix of a stream of features, in float64.

    Batches are combined by Chan, Golub and LeVeque's update: the scatter is always about the
    mean so far, so a mean far from zero costs no digits, and any split of the data agrees.

    Attributes:
        n: number of pictures so far.
        mean: [D], None before the first batch.
        scatter: [D, D], sum of (x - mean)(x - mean)^T, None before the first batch.
    """

    def __init__(self) -> None:
        self.n = 0
        self.mean: Tensor | None = None
        self.scatter: Tensor | None = None

    def update(self, features: Tensor) -> None:
        """Add pictures, [B, D].

        Raises:
            ValueError: features that are not finite, or of another width than before; nothing
                is added then.
        """
        features = check_features(features, "added", minimum=1)
        if self.mean is not None:
            check_width(features.shape[1], len(self.mean), ("added", "earlier"))
        for block in blocks(features, _BLOCK):
            self._add(block)

    def _add(self, features: Tensor) -> None:
        n, mean = len(features), features.mean(dim=0)
        if self.mean is None or self.scatter is None:
            self.mean = torch.zeros_like(mean)
            self.scatter = mean.new_zeros(len(mean), len(mean))
        total = self.n + n
        step = mean - self.mean
        # One more row holds the distance between the means: a single pass over the matrix.
        rows = np.empty((len(features) + 1, len(mean)))
        np.subtract(features.numpy(), mean.numpy(), out=rows[:-1])
        rows[-1] = step.numpy() * (self.n * n / total) ** 0.5
        # NumPy computes half of a product with its own transpose; PyTorch would compute all of it.
        self.scatter = self.scatter + torch.from_numpy(rows.T @ rows)
        self.mean = self.mean + step * (n / total)
        self.n = total

    def gaussian(self) -> Gaussian:
        """The fitted distribution.

        Raises:
            ValueError: fewer than 2 pictures.
        """
        if self.mean is None or self.scatter is None or self.n < 2:
            raise ValueError(
                f"Got {self.n} picture(s); expected at least 2 for a covariance. Add pictures."
            )
        return Gaussian(self.mean, self.scatter / (self.n - 1), self.n)


def gaussian_of(features: Tensor) -> Gaussian:
    """Mean and covariance of features [N, D].

    Raises:
        ValueError: fewer than 2 pictures, or features that are not finite.
    """
    statistics = GaussianStatistics()
    statistics.update(features)
    return statistics.gaussian()


def save_statistics(path: str | Path, gaussian: Gaussian, provenance: Provenance) -> None:
    """Write an npz file atomically; pytorch-fid and clean-fid read its `mu` and `sigma`.

    Raises:
        ValueError: statistics of which the number of pictures is unknown.
    """
    path = Path(path)
    if gaussian.n is None:
        raise ValueError(
            f"The statistics for {path.name} have no number of pictures; expected the number that "
            "they were computed from. Compute them from the pictures again."
        )
    content = {
        "mu": gaussian.mean.numpy(),
        "sigma": gaussian.covariance.numpy(),
        "n": np.int64(gaussian.n),
        "format": np.int64(FORMAT),
    } | {key: np.str_(value) for key, value in provenance._asdict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomically(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **content)


class LoadedStatistics(NamedTuple):
    """Content of a statistics file.

    Attributes:
        gaussian: the distribution.
        provenance: None where the file does not tell.
        warning: what the user should know, or "".
    """

    gaussian: Gaussian
    provenance: Provenance | None
    warning: str


def load_statistics(path: str | Path, expected: Provenance | None = None) -> LoadedStatistics:
    """Read a file of `save_statistics`, or the `mu` and `sigma` of a public tool.

    Args:
        path: npz file; nothing in it is executed.
        expected: what the statistics must come from, if a file tells.

    Raises:
        ValueError: not such a file, damaged, or from something else than expected.
    """
    path = Path(path)
    content = _read(path)
    mean, covariance = _moments(path, content)
    if "format" not in content:
        return LoadedStatistics(
            Gaussian(mean, covariance, None),
            None,
            f"{path.name} does not say which network, weights, resize mode and how many pictures "
            "it was computed from. Its distances mean something only if all but the pictures are "
            "as in this run.",
        )
    found, n = _provenance(path, content)
    if expected is not None and found != expected:
        raise ValueError(_mismatch(path, found, expected))
    return LoadedStatistics(Gaussian(mean, covariance, n), found, "")


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise ValueError(
            f"{path} does not exist; expected an npz file with statistics. Check the name."
        ) from None
    except (
        OSError,
        ValueError,
        EOFError,
        TypeError,  # a lone array is no context manager
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
        pickle.UnpicklingError,
    ) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path.name} cannot be read ({reason}); expected an npz file of plain arrays. "
            "It may be cut off, or hold objects, which are never loaded. Compute the statistics "
            "again."
        ) from error


def _moments(path: Path, content: dict[str, np.ndarray]) -> tuple[Tensor, Tensor]:
    if not {"mu", "sigma"} <= content.keys():
        raise ValueError(
            f"{path.name} holds {sorted(content)}; expected 'mu' and 'sigma'. Choose a file that "
            "holds statistics, not features."
        )
    mu, sigma = content["mu"], content["sigma"]
    if mu.ndim != 1 or sigma.shape != mu.shape * 2 or {mu.dtype.kind, sigma.dtype.kind} != {"f"}:
        raise ValueError(
            f"{path.name} holds mu {list(mu.shape)} and sigma {list(sigma.shape)} of {sigma.dtype}"
            "; expected [D] and [D, D] of floating-point numbers. Compute the statistics again."
        )
    mean, covariance = (torch.from_numpy(np.asarray(a, np.float64)) for a in (mu, sigma))
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        raise ValueError(
            f"{path.name} holds NaN or infinity; expected finite numbers. Compute the statistics "
            "again."
        )
    return mean, (covariance + covariance.T) / 2


def _provenance(path: Path, content: dict[str, np.ndarray]) -> tuple[Provenance, int]:
    try:
        found = int(content["format"])
        values = [str(content[key]) for key in Provenance._fields]
        n = int(content["n"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path.name} is damaged ({error}); expected {', '.join(Provenance._fields)} and n "
            "beside mu and sigma. Compute the statistics again."
        ) from error
    if found != FORMAT:
        raise ValueError(
            f"{path.name} has format {found}; expected {FORMAT}. Update the pack, or compute the "
            "statistics again."
        )
    return Provenance(*values), n


def _mismatch(path: Path, found: Provenance, expected: Provenance) -> str:
    pairs = zip(Provenance._fields, found, expected, strict=True)
    differences = [f"{key} {a!r} instead of {b!r}" for key, a, b in pairs if a != b]
    return (
        f"{path.name} was computed with {'; '.join(differences)}. Such numbers cannot be compared: "
        "choose the same network, weights and resize mode, or compute the statistics again."
    )
