"""Numbering of a dataset: which sample of the index, and which part or look of it, a number is.

A dataset has a number per sample, unless a selection is tiled (one per tile) or several looks are
taken at each sample (`samples_per_read`). Those of one sample are next to each other.

Values; safe from any thread.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Numbering"]


@dataclass(frozen=True, slots=True, eq=False)
class Numbering:
    """Numbers of a dataset.

    Attributes:
        samples: number of samples in the index.
        each: numbers per sample, where they are equally many.
        firsts: int64[samples + 1], first number of each sample and the end, where they are not.
        is_tiled: whether the numbers of a sample are its tiles, and not looks at it.
    """

    samples: int
    each: int = 1
    firsts: npt.NDArray[np.int64] | None = None
    is_tiled: bool = False

    @classmethod
    def of_tiles(cls, counts: npt.NDArray[np.int64]) -> Numbering:
        """Return that of samples with a count of tiles each."""
        if len(counts) and (counts == counts[0]).all():
            return cls(len(counts), int(counts[0]), is_tiled=True)
        firsts = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=firsts[1:])
        return cls(len(counts), 1, firsts, is_tiled=True)

    def __len__(self) -> int:
        return self.samples * self.each if self.firsts is None else int(self.firsts[-1])

    @property
    def is_plain(self) -> bool:
        """Whether a number is that of a sample."""
        return self.firsts is None and self.each == 1

    def split(self, number: int) -> tuple[int, int]:
        """Return the sample of a number, and which of its own it is."""
        if self.firsts is None:
            return divmod(number, self.each)
        sample = int(np.searchsorted(self.firsts, number, side="right")) - 1
        return sample, number - int(self.firsts[sample])

    def split_many(
        self, numbers: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return `split` of many: int64[n] and int64[n]."""
        if self.firsts is None:
            samples, parts = np.divmod(numbers, self.each)
            return samples, parts
        samples = np.searchsorted(self.firsts, numbers, side="right") - 1
        return samples, numbers - self.firsts[samples]

    def range_of(self, sample: int) -> range:
        """Return the numbers of a sample."""
        if self.firsts is None:
            return range(sample * self.each, (sample + 1) * self.each)
        return range(int(self.firsts[sample]), int(self.firsts[sample + 1]))
