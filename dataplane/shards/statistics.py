"""Statistics of an array, gathered chunk by chunk in any order of combination.

Each chunk gives a count, extremes, a mean and a sum of squared deviations, all in float64; partial
results combine without loss of precision (Chan, Golub and LeVeque 1979). NaNs are left out and
counted. Arrays without an order (complex) and empty ones have no statistics. Pure values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.shards.model import Stats

__all__ = ["PartialStats", "partial_stats"]


@dataclass(frozen=True, slots=True)
class PartialStats:
    """Statistics of part of an array; `count` leaves NaNs out."""

    count: int = 0
    nan_count: int = 0
    minimum: float = math.inf
    maximum: float = -math.inf
    mean: float = 0.0
    squares: float = 0.0

    def combine(self, other: PartialStats) -> PartialStats:
        """Return the statistics of both parts together."""
        count = self.count + other.count
        nan_count = self.nan_count + other.nan_count
        if self.count == 0 or other.count == 0:
            known = other if self.count == 0 else self
            return PartialStats(
                count, nan_count, known.minimum, known.maximum, known.mean, known.squares
            )
        delta = other.mean - self.mean
        share = other.count / count
        return PartialStats(
            count,
            nan_count,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
            self.mean + delta * share,
            self.squares + other.squares + delta * delta * self.count * share,
        )

    def finish(self) -> Stats | None:
        """Return the statistics, or None when nothing was counted at all."""
        if self.count == 0:
            nan = math.nan
            return Stats(nan, nan, nan, nan, self.nan_count) if self.nan_count else None
        # Infinities leave NaN in the sums; max() would hide them.
        variance = self.squares / self.count
        std = math.sqrt(variance) if variance >= 0 else math.nan
        return Stats(self.minimum, self.maximum, self.mean, std, self.nan_count)


def partial_stats(values: npt.NDArray[Any]) -> PartialStats:
    """Measure one chunk; complex and empty chunks give nothing."""
    if values.size == 0 or values.dtype.kind == "c":
        return PartialStats()
    with np.errstate(all="ignore"):
        wide = values.astype(np.float64).ravel()
        minimum = float(wide.min())
        nan_count = 0
        if math.isnan(minimum):
            wide = wide[~np.isnan(wide)]
            nan_count = values.size - wide.size
            if wide.size == 0:
                return PartialStats(nan_count=nan_count)
            minimum = float(wide.min())
        maximum = float(wide.max())
        mean = float(wide.mean())
        wide -= mean
        # Not np.dot: the BLAS behind it brings threads of its own, which spin and double the
        # CPU time of a pack.
        squares = float(np.multiply(wide, wide, out=wide).sum())
        return PartialStats(wide.size, nan_count, minimum, maximum, mean, squares)
