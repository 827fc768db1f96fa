"""Chunks of many samples at once, from the columns of an index: no Python object per sample.

`ChunkColumns` gives plans what `DatasetIndex.__getitem__` gives them sample by sample. Samples
whose rows say the same but for places, attributes and statistics have the same *structure*: the
same arrays in the same order, of the same element types, shapes, chunk shapes, codecs and fill
values. One entry shows it for all of them, and what is left per sample is the places of its chunks,
checked here.

The checks are those of an entry. They say only which samples pass; for one that does not, the entry
raises the error. Immutable, so thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dataplane.shards.index_load import IndexColumns
from dataplane.shards.model import MISSING_CHUNK

__all__ = ["ChunkColumns"]

MAX_DIMS = 8
"""Dimensions of an array that its structure shows; samples with more have none."""

MAX_CHUNKS_AT_ONCE = 1 << 16
"""Chunks that are looked at in one go; as NumPy arrays they are a few MiB."""

_STRUCTURE_TEXT = ("array", "dtype", "codecs", "fill_value", "dimension_names")


class ChunkColumns:
    """The columns of an index that hold structure and places of chunks.

    Args:
        columns: columns of the index.
    """

    def __init__(self, columns: IndexColumns) -> None:
        self._rows = columns.rows
        self._text = columns.text
        self._shard = columns.shard
        self._shapes, self._chunk_shapes = columns.shape, columns.chunk_shape
        self._places = columns.chunks
        self._zip_start = columns.zip_start
        self._starts, self._nbytes = columns.start, columns.nbytes

    @property
    def shards(self) -> list[str]:
        """Keys of the shards, by number."""
        return self._shard.values

    def shard_of(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the number of the shard that each sample lies in."""
        return self._shard.codes.take(samples).astype(np.int64)

    def row_counts(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return how many arrays each sample has."""
        return self._rows.counts(samples)

    def stretches(self, samples: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
        """Cut a list of samples into stretches of no more than `MAX_CHUNKS_AT_ONCE` chunks.

        A sample that has more chunks by itself is a stretch of its own.
        """
        first, stop = self._rows.first(samples), self._rows.first(samples + 1)
        counts = self._places.first(stop) - self._places.first(first) + (stop - first)
        piece = np.cumsum(counts) // MAX_CHUNKS_AT_ONCE
        yield from np.split(samples, np.flatnonzero(np.diff(piece)) + 1)

    def structures(
        self, samples: npt.NDArray[np.int64], arrays: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Return the structure of samples that all have `arrays` arrays.

        Returns:
            int64[samples, n]: equal rows are equal structures; and bool[samples]: whether a sample
            has one. It has none when an array has too many dimensions, or not as many offsets as
            lengths.
        """
        rows = (self._rows.first(samples)[:, None] + np.arange(arrays)).reshape(-1)
        texts = [self._text[name].codes.take(rows) for name in _STRUCTURE_TEXT]
        lists = (self._shapes, self._chunk_shapes)
        lengths = [column.lengths(rows) for column in lists]
        counts, nbytes_counts = self._places.counts(rows), self._places.nbytes_counts(rows)
        heads = (*texts, *lengths, counts)
        found = np.zeros((len(rows), len(heads) + 2 * MAX_DIMS), np.int64)
        for place, column in enumerate(heads):
            found[:, place] = column
        sound = (lengths[0] <= MAX_DIMS) & (lengths[1] <= MAX_DIMS) & (counts == nbytes_counts)
        place = len(heads)
        for numbers, length in zip(lists, lengths, strict=True):
            first = numbers.first(rows)
            for dimension in range(min(int(length.max(initial=0)), MAX_DIMS)):
                has = np.flatnonzero(length > dimension)
                taken = numbers.flat.take(first[has] + dimension)
                found[has, place + dimension] = taken.astype(np.uint64, copy=False).view(np.int64)
            place += MAX_DIMS
        whole = sound.reshape(len(samples), arrays).all(axis=1)
        return found.reshape(len(samples), -1), whole

    def chunk_counts(self, sample: int) -> npt.NDArray[np.int64]:
        """Return how many chunks each array of a sample has."""
        return self._places.counts(np.arange(*self._rows.range(sample)))

    def chunks(
        self, samples: npt.NDArray[np.int64], places: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Return where chunks of samples of one structure lie.

        Args:
            samples: numbers of the samples.
            places: int64[n], which chunks, counted over all arrays of a sample.

        Returns:
            Offsets in the shard and lengths, uint64[samples, n] each.
        """
        return self._places.of_samples(samples, places)

    def are_within(
        self, samples: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Say of samples of one structure whether all their chunks lie within their arrays.

        Args:
            samples: numbers of the samples.
            counts: number of chunks of each array.
        """
        offsets, nbytes = self.chunks(samples, np.arange(int(counts.sum())))
        rows = self._rows.first(samples)[:, None] + np.repeat(np.arange(len(counts)), counts)
        starts = self._zip_start[samples][:, None] + self._starts.take(rows)
        stops = starts + self._nbytes.take(rows)
        missing = (offsets == MISSING_CHUNK) & (nbytes == MISSING_CHUNK)
        # Compared as `nbytes > stop - offset`: the sum could wrap around.
        inside = (offsets >= starts) & (nbytes <= stops - np.minimum(offsets, stops))
        result: npt.NDArray[np.bool_] = (missing | inside).all(axis=1)
        return result
