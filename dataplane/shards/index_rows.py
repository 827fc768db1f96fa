"""`SampleRows`: which rows of an index are of which sample, by arithmetic where all have as many.

Immutable, so thread-safe.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dataplane.shards.index_compact import Ints

__all__ = ["SampleRows"]


class SampleRows:
    """The rows of each sample.

    Args:
        first: int64[samples + 1], first row of each sample, and the number of rows.

    Attributes:
        samples: number of samples.
        per_sample: number of rows of a sample where all have as many; otherwise 0.
    """

    __slots__ = ("_first", "per_sample", "samples")

    def __init__(self, first: npt.NDArray[np.int64]) -> None:
        self.samples = len(first) - 1
        counts = np.diff(first)
        is_uniform = self.samples > 0 and bool((counts == counts[0]).all())
        self.per_sample = int(counts[0]) if is_uniform else 0
        is_short = first[-1] <= np.iinfo(np.int32).max
        self._first: Ints | None = None
        if not is_uniform:
            self._first = first.astype(np.int32 if is_short else np.int64)

    def first(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the first row of samples; their number gives the number of rows."""
        if self._first is None:
            return samples * self.per_sample
        return self._first[samples].astype(np.int64)

    def counts(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return how many rows samples have."""
        return self.first(samples + 1) - self.first(samples)

    def range(self, sample: int) -> tuple[int, int]:
        """Return the first row of a sample, and where its rows end."""
        first, stop = self.first(np.array([sample, sample + 1])).tolist()
        return first, stop

    def sample_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the sample of each row."""
        if self._first is None:
            return rows // self.per_sample
        return np.searchsorted(self._first, rows, side="right").astype(np.int64) - 1

    def all_samples(self) -> npt.NDArray[np.int64]:
        """Return the sample of every row."""
        everything = np.arange(self.samples, dtype=np.int64)
        return np.repeat(everything, self.per_sample or self.counts(everything))
