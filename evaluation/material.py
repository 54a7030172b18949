"""All that the metrics read: features, networks, and what is known about each picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import caveats
from .extract import Extracted
from .generated import Entry
from .metrics.intervals import mean_interval
from .plan import Pass, served_by
from .report import Value
from .request import Request

Scores = dict[int, float | None]  # by number of the generated picture


@dataclass
class Material:
    """All that the metrics read.

    Attributes:
        features: by (role, source).
        usable: source -> numbers of the pictures that count.
        warnings: of the report; metrics add theirs.
    """

    request: Request
    networks: Mapping[str, Any]
    features: Mapping[Pass, Extracted]
    usable: Mapping[str, Sequence[int]]
    warnings: list[str]
    check: Callable[[], None]

    @property
    def entries(self) -> Sequence[Entry]:
        """What is known about each generated picture."""
        return self.request.generated.entries

    def network(self, role: str) -> Any:
        """The network that serves a role."""
        return self.networks[served_by(role, self.networks)]

    def extracted(self, role: str, source: str) -> Extracted:
        """Features of a source through the network that serves a role."""
        return self.features[served_by(role, self.networks), source]

    def check_encoder(self, metric: str, role: str) -> None:
        """Warn where the network of a role conditioned the pictures."""
        conditioning = self.request.generated.conditioning
        self.warnings += caveats.same_encoder(metric, self.network(role), conditioning)

    def mean(
        self,
        values: Sequence[float],
        numbers: Sequence[int],
        detail: dict,
        independent: bool = True,
    ) -> Value:
        """Mean over pictures with an interval over identities and prompts, where it has one.

        Args:
            independent: values of one identity and prompt are; pairs, which share pictures, are
                not, and have no interval where neither varies.
        """
        if not values:
            return Value(None, n=0, detail={"reason": "no picture has a value"} | detail)
        if len(values) == 1:
            return Value(float(values[0]), n=1, detail=detail)
        interval = mean_interval(
            values,
            [self.entries[n].identity for n in numbers],
            [self.entries[n].prompt for n in numbers],
            confidence=self.request.confidence,
            seed=self.request.seed,
        )
        if interval.resampled == "images" and not independent:
            return Value(interval.mean, n=interval.n, detail=detail)
        detail = detail | {"resampled": interval.resampled, "clusters": interval.clusters}
        return Value(interval.mean, interval.low, interval.high, interval.n, detail)
