"""Statistics of an array, gathered chunk by chunk in any order of combination.

Each chunk gives counts, extremes, a mean and a sum of squared deviations, all in float64; partial
results combine without loss of precision (Chan, Golub and LeVeque 1979). NaNs are left out of them
and counted. Infinities are counted, too: they show in the extremes and are left out of the mean and
the deviation, which would be no numbers with them. Arrays of vectors or tensors have the same for
each component. Arrays without an order (complex) have only the count of values that are not finite,
empty ones nothing. Pure values.
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
        count: values that are finite; mean and squares are of these.
        nan_count: values that are NaN.
        infinite_count: values that are infinite; of complex numbers all that are not finite.
        minimum: smallest value, which may be infinite; above `maximum` where there is none.
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
        minimum, maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        if self.count == 0 or other.count == 0:
            known = other if self.count == 0 else self
            return PartialStats(
                *(count, nan_count, infinite_count),
                *(minimum, maximum, known.mean, known.squares),
            )
        delta = other.mean - self.mean
        share = other.count / count
        return PartialStats(
            *(count, nan_count, infinite_count),
            *(minimum, maximum),
            self.mean + delta * share,
            self.squares + other.squares + delta * delta * self.count * share,
        )

    def finish(self) -> Stats | None:
        """Return the statistics, or None when nothing was counted at all."""
        nan = math.nan
        if self.minimum > self.maximum:
            return Stats(nan, nan, nan, nan, self.nan_count) if self.nan_count else None
        if self.count == 0:
            return Stats(self.minimum, self.maximum, nan, nan, self.nan_count)
        # Sums of huge values may overflow, which leaves no number; max() would hide that.
        variance = self.squares / self.count
        std = math.sqrt(variance) if variance >= 0 else nan
        return Stats(self.minimum, self.maximum, self.mean, std, self.nan_count)


@dataclass(frozen=True, slots=True)
class ArrayStats:
    """Statistics of part of an array, of all its values and of each component.

    Attributes:
        whole: statistics of all values.
        components: statistics of each component; empty where the array has none.
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
        values: elements of the chunk inside the array.
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
        minimum, maximum = rows.min(axis=1), rows.max(axis=1)
        if not (np.isfinite(minimum).all() and np.isfinite(maximum).all()):
            return tuple(map(_of_its_finite, rows))
        mean = rows.mean(axis=1)
        rows -= mean[:, None]
        # Not np.dot: the BLAS behind it brings threads of its own, which spin and double the
        # CPU time of a pack.
        squares = np.multiply(rows, rows, out=rows).sum(axis=1)
    figures = (minimum.tolist(), maximum.tolist(), mean.tolist(), squares.tolist())
    return tuple(PartialStats(rows.shape[1], 0, 0, *row) for row in zip(*figures, strict=True))


def _of_its_finite(row: npt.NDArray[np.float64]) -> PartialStats:
    """Measure the finite values of a row, and count the others."""
    finite = row[np.isfinite(row)]
    infinite = row[np.isinf(row)]
    others = PartialStats(
        nan_count=row.size - finite.size - infinite.size,
        infinite_count=infinite.size,
        minimum=float(infinite.min(initial=math.inf)),
        maximum=float(infinite.max(initial=-math.inf)),
    )
    return others.combine(_measured(finite[None])[0]) if finite.size else others
