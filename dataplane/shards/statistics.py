"""Statistics of an array, gathered chunk by chunk in any order of combination.

Each chunk gives counts, extremes, a mean and a sum of squared deviations, all in float64; partial
results combine without loss of precision (Chan, Golub and LeVeque 1979). NaNs are left out of them
and counted; infinities take part, so they show in the extremes and leave no mean, and are counted
too. Arrays of vectors or tensors have the same for each component. Arrays without an order
(complex) have only the count of values that are not finite, empty ones nothing. Pure values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.shards.model import Stats

__all__ = ["ArrayStats", "PartialStats", "array_stats", "combined_stats", "partial_stats"]


@dataclass(frozen=True, slots=True)
class PartialStats:
    """Statistics of part of an array.

    Attributes:
        count: values that are no NaN; extremes, mean and squares are of these.
        nan_count: values that are NaN.
        infinite_count: values that are infinite; of complex numbers all that are not finite.
        minimum: smallest value.
        maximum: largest value.
        mean: arithmetic mean.
        squares: sum of squared deviations from the mean.
    """

    count: int = 0
    nan_count: int = 0
    infinite_count: int = 0
    minimum: float = math.inf
    maximum: float = -math.inf
    mean: float = 0.0
    squares: float = 0.0

    def combine(self, other: PartialStats) -> PartialStats:
        """Return the statistics of both parts together."""
        count = self.count + other.count
        nan_count = self.nan_count + other.nan_count
        infinite_count = self.infinite_count + other.infinite_count
        if self.count == 0 or other.count == 0:
            known = other if self.count == 0 else self
            return PartialStats(
                *(count, nan_count, infinite_count),
                *(known.minimum, known.maximum, known.mean, known.squares),
            )
        delta = other.mean - self.mean
        share = other.count / count
        return PartialStats(
            *(count, nan_count, infinite_count),
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


@dataclass(frozen=True, slots=True)
class ArrayStats:
    """Statistics of part of an array, of all its values and of each component.

    Attributes:
        whole: of all values.
        components: of each component; empty where the array has none.
        max_error: largest absolute difference between a value of the source and the stored one.
    """

    whole: PartialStats = PartialStats()
    components: tuple[PartialStats, ...] = ()
    max_error: float = 0.0

    def combine(self, other: ArrayStats) -> ArrayStats:
        """Return the statistics of both parts together."""
        pairs = zip(self.components, other.components, strict=True)
        components = (
            tuple(ours.combine(theirs) for ours, theirs in pairs)
            if self.components and other.components
            else self.components or other.components
        )
        max_error = max(self.max_error, other.max_error)
        return ArrayStats(self.whole.combine(other.whole), components, max_error)


def array_stats(
    values: npt.NDArray[Any], components: int = 0, max_error: float = 0.0
) -> ArrayStats:
    """Measure one chunk.

    Args:
        values: the chunk's elements inside the array.
        components: length of the last dimension where it holds components, 0 elsewhere.
        max_error: as in `ArrayStats`.
    """
    if components == 0 or values.size == 0:
        return ArrayStats(partial_stats(values), (), max_error)
    # A row per component: reductions along short rows are many times slower.
    parts = _measured(values.reshape(-1, components).T.astype(np.float64, order="C"))
    return ArrayStats(combined_stats(parts), parts, max_error)


def combined_stats(parts: Sequence[PartialStats]) -> PartialStats:
    """Combine parts in their order."""
    total = PartialStats()
    for part in parts:
        total = total.combine(part)
    return total


def partial_stats(values: npt.NDArray[Any]) -> PartialStats:
    """Measure all values of one chunk together."""
    if values.size == 0:
        return PartialStats()
    if values.dtype.kind == "c":
        finite = int(np.count_nonzero(np.isfinite(values)))
        return PartialStats(infinite_count=values.size - finite)
    with np.errstate(all="ignore"):
        (part,) = _measured(values.astype(np.float64).reshape(1, -1))
    return part


def _measured(rows: npt.NDArray[np.float64]) -> tuple[PartialStats, ...]:
    """Measure each row of float64[rows, values], which are overwritten."""
    with np.errstate(all="ignore"):
        minimum = rows.min(axis=1)
        if np.isnan(minimum).any():
            return tuple(_without_nans(row) for row in rows)
        maximum = rows.max(axis=1)
        is_finite = bool(np.isfinite(minimum).all() and np.isfinite(maximum).all())
        infinite = np.zeros(len(rows), int) if is_finite else np.isinf(rows).sum(axis=1)
        mean = rows.mean(axis=1)
        rows -= mean[:, None]
        # Not np.dot: the BLAS behind it brings threads of its own, which spin and double the
        # CPU time of a pack.
        squares = np.multiply(rows, rows, out=rows).sum(axis=1)
    figures = (infinite.tolist(), minimum.tolist(), maximum.tolist(), mean.tolist())
    return tuple(
        PartialStats(rows.shape[1], 0, *row) for row in zip(*figures, squares.tolist(), strict=True)
    )


def _without_nans(row: npt.NDArray[np.float64]) -> PartialStats:
    known = row[~np.isnan(row)]
    missing = PartialStats(nan_count=row.size - known.size)
    return missing.combine(_measured(known[None])[0]) if known.size else missing
