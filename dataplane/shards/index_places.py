"""`ChunkPlaces`: where the chunks of all arrays of an index lie, in 8 bytes for most chunks.

Offsets are kept relative to the sample's archive, as long as all archives are below 4 GiB; where
one is larger, or the index has an offset outside of the archive (which is refused when that sample
is read), all are kept as they are. Values are given exactly as the index has them.

`PlaceParts` collects them while an index is read, by one thread. `ChunkPlaces` is immutable, so
thread-safe.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.shards.index_compact import CompactLists, GrowingInts, IntColumn, Ints
from dataplane.shards.index_rows import SampleRows
from dataplane.shards.model import MISSING_CHUNK

__all__ = ["ChunkPlaces", "PlaceParts"]

_MISSING = np.uint32(2**32 - 1)
"""What stands for MISSING_CHUNK in 32 bits."""


class _Growing:
    """Numbers while an index is read: in 32 bits, and beside them what does not fit."""

    def __init__(self) -> None:
        self._length = 0
        self._short = GrowingInts()
        self._wide: list[tuple[int, npt.NDArray[np.uint64]]] = []

    @property
    def is_short(self) -> bool:
        """Whether all fit."""
        return not self._wide

    def add(self, values: npt.NDArray[np.uint64], bases: Any, period: int) -> None:
        short = _in_32_bits(values, bases)
        if short is None:
            self._wide.append((self._length, values.copy()))
            short = np.zeros(len(values), np.uint32)
        self._short.add(short, period)
        self._length += len(values)

    def finish(self, period: int, bases: Any) -> IntColumn:
        """Return the column: less bases and in 32 bits where all fit, otherwise as they are."""
        column = self._short.finish(period)
        if self.is_short:
            return column
        values = _widened(column.all(), bases)
        for first, part in self._wide:
            values[first : first + len(part)] = part
        return IntColumn(values, len(values), 0)


class PlaceParts:
    """The places of chunks while an index is read."""

    def __init__(self) -> None:
        self.offsets = _Growing()
        self.nbytes = _Growing()

    def add(
        self,
        offsets: npt.NDArray[np.uint64],
        nbytes: npt.NDArray[np.uint64],
        bases: npt.NDArray[np.uint64],
        period: int,
    ) -> None:
        """Add chunks.

        Args:
            offsets: offsets as in the index.
            nbytes: lengths.
            bases: first byte of the archive of each.
            period: number of chunks of a sample, as far as is known.
        """
        self.offsets.add(offsets, bases, period)
        self.nbytes.add(nbytes, np.uint64(0), period)


def _in_32_bits(values: npt.NDArray[np.uint64], bases: Any) -> Ints | None:
    """Return values less their bases, or None where one does not fit."""
    is_missing = values == MISSING_CHUNK
    relative = values - bases
    if not (is_missing | ((values >= bases) & (relative < _MISSING))).all():
        return None
    short: Ints = relative.astype(np.uint32)
    short[is_missing] = _MISSING
    return short


def _widened(values: Ints, bases: Any) -> npt.NDArray[np.uint64]:
    """Return values of 32 bits plus their bases in 64 bits; those of 64 bits as they are."""
    if values.dtype == np.uint64:
        return values
    wide = values.astype(np.uint64)
    wide += bases
    is_missing = values == _MISSING
    if is_missing.any():
        wide[is_missing] = MISSING_CHUNK
    return wide


class ChunkPlaces:
    """The places of the chunks of all arrays.

    Args:
        offset_counts: number of offsets of each row.
        nbytes_counts: number of lengths of each row, which should be the same.
        parts: places; used up.
        rows: rows of the samples.
        zip_start: uint64[samples], first byte of the archive of each sample.
    """

    __slots__ = ("_is_relative", "_nbytes", "_offsets", "_rows", "_zip_start")

    def __init__(
        self,
        offset_counts: IntColumn,
        nbytes_counts: IntColumn,
        parts: PlaceParts,
        rows: SampleRows,
        zip_start: npt.NDArray[np.uint64],
    ) -> None:
        self._rows = rows
        self._zip_start = zip_start
        self._is_relative = parts.offsets.is_short
        bases: Any = np.uint64(0)
        if not self._is_relative:
            bases = zip_start[rows.all_samples()].repeat(offset_counts.all())
        self._offsets = CompactLists(offset_counts, lambda n: parts.offsets.finish(n, bases))
        self._nbytes = CompactLists(nbytes_counts, lambda n: parts.nbytes.finish(n, np.uint64(0)))

    def counts(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return how many offsets rows have."""
        return self._offsets.lengths(rows)

    def nbytes_counts(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return how many lengths rows have."""
        return self._nbytes.lengths(rows)

    def first(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the number of offsets before those of rows."""
        return self._offsets.first(rows)

    def of_samples(
        self, samples: npt.NDArray[np.int64], places: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Return offsets in the shard and lengths of chunks, uint64[samples, n] each.

        Args:
            samples: numbers of the samples.
            places: int64[n], which chunks, counted over all arrays of a sample.
        """
        rows = self._rows.first(samples)
        bases = self._zip_start[samples][:, None]
        offsets = self._offsets.flat.take(self._offsets.first(rows)[:, None] + places)
        nbytes = self._nbytes.flat.take(self._nbytes.first(rows)[:, None] + places)
        return self._absolute(offsets, bases), _widened(nbytes, np.uint64(0))

    def of_row(
        self, row: int, sample: int
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Return offsets in the shard and lengths of the chunks of a row of a sample."""
        offsets = self._absolute(self._offsets.get(row), self._zip_start[sample])
        return offsets, _widened(self._nbytes.get(row), np.uint64(0))

    def _absolute(self, offsets: Ints, bases: Any) -> npt.NDArray[np.uint64]:
        return _widened(offsets, bases) if self._is_relative else offsets
