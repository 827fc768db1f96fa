"""Chunks of many samples at once, from the columns of an index: no Python object per sample.

`ChunkColumns` gives plans what `DatasetIndex.__getitem__` gives them sample by sample. Samples
whose rows say the same but for places and attributes have the same *structure*: the same arrays in
the same order, of the same element types, shapes, chunk shapes, codecs and fill values. One entry
shows it for all of them, and what is left per sample is the places of its chunks, checked here.

The checks are those of an entry. They say only which samples pass; for one that does not, the entry
raises the error. Immutable but for notes of what was found valid, so thread-safe.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from dataplane.shards.index_columns import ListColumn, TextColumn
from dataplane.shards.model import MISSING_CHUNK

__all__ = ["ChunkColumns"]

MAX_DIMS = 8
"""Dimensions of an array that its structure shows; samples with more have none."""

MAX_CHUNKS_AT_ONCE = 1 << 16
"""Chunks that are looked at in one go; as NumPy arrays they are a few MiB."""

_STRUCTURE_TEXT = ("array", "dtype", "codecs", "fill_value", "dimension_names")
_OBJECTS = ("sample_attributes", "attributes")
_UNKNOWN, _VALID, _INVALID = 0, 1, 2


class ChunkColumns:
    """The columns of an index that hold structure and places of chunks.

    Args:
        first_rows: int64[samples + 1], first row of each sample.
        text: text columns by name.
        lists: list columns by name.
        numbers: number columns by name.
    """

    def __init__(
        self,
        first_rows: npt.NDArray[np.int64],
        text: Mapping[str, TextColumn],
        lists: Mapping[str, ListColumn],
        numbers: Mapping[str, npt.NDArray[np.uint64]],
    ) -> None:
        self._first_rows = first_rows
        self._text = text
        self._shapes = lists["shape"]
        self._chunk_shapes = lists["chunk_shape"]
        self._offsets = lists["chunk_offsets"]
        self._nbytes = lists["chunk_nbytes"]
        self._starts = numbers["start"]
        self._stops = numbers["stop"]
        self._validity = {
            name: np.full(len(text[name].values) + 1, _UNKNOWN, np.uint8) for name in _OBJECTS
        }

    @property
    def shards(self) -> list[str]:
        """Keys of the shards, by number."""
        return self._text["shard"].values

    def shard_of(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Return the number of the shard that each sample lies in."""
        codes: npt.NDArray[np.int32] = self._text["shard"].codes[self._first_rows[samples]]
        return codes

    def row_counts(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return how many arrays each sample has."""
        return self._first_rows[samples + 1] - self._first_rows[samples]

    def stretches(self, samples: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
        """Cut a list of samples into stretches of no more than `MAX_CHUNKS_AT_ONCE` chunks.

        A sample that has more chunks by itself is a stretch of its own.
        """
        first, stop = self._first_rows[samples], self._first_rows[samples + 1]
        counts = self._offsets.bounds[stop] - self._offsets.bounds[first] + (stop - first)
        piece = np.cumsum(counts) // MAX_CHUNKS_AT_ONCE
        yield from np.split(samples, np.flatnonzero(np.diff(piece)) + 1)

    def structures(
        self, samples: npt.NDArray[np.int64], arrays: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Return the structure of samples that all have `arrays` arrays.

        Returns:
            int64[samples, n]: equal rows are equal structures; and bool[samples]: whether a sample
            has one. It has none when its attributes are damaged, or an array has too many
            dimensions or not as many offsets as lengths.
        """
        rows = (self._first_rows[samples][:, None] + np.arange(arrays)).reshape(-1)
        texts = [self._text[name].codes[rows] for name in _STRUCTURE_TEXT]
        lists = (self._shapes, self._chunk_shapes, self._offsets, self._nbytes)
        lengths = [column.bounds[rows + 1] - column.bounds[rows] for column in lists]
        found = np.zeros((len(rows), len(texts) + len(lists) + 2 * MAX_DIMS), np.int64)
        for place, column in enumerate((*texts, *lengths)):
            found[:, place] = column
        sound = (lengths[0] <= MAX_DIMS) & (lengths[1] <= MAX_DIMS) & (lengths[2] == lengths[3])
        place = len(texts) + len(lists)
        for numbers, length in zip(lists[:2], lengths[:2], strict=True):
            for dimension in range(min(int(length.max(initial=0)), MAX_DIMS)):
                has = np.flatnonzero(length > dimension)
                found[has, place + dimension] = numbers.flat[
                    numbers.bounds[rows[has]] + dimension
                ].view(np.int64)
            place += MAX_DIMS
        sound &= self._are_objects("attributes", rows)
        whole = sound.reshape(len(samples), arrays).all(axis=1)
        whole &= self._are_objects("sample_attributes", self._first_rows[samples])
        return found.reshape(len(samples), -1), whole

    def chunk_counts(self, sample: int) -> npt.NDArray[np.int64]:
        """Return how many chunks each array of a sample has."""
        bounds = self._offsets.bounds[self._first_rows[sample] : self._first_rows[sample + 1] + 1]
        return np.diff(bounds)

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
        first = self._first_rows[samples]
        offsets = self._offsets.flat[self._offsets.bounds[first][:, None] + places]
        return offsets, self._nbytes.flat[self._nbytes.bounds[first][:, None] + places]

    def are_within(
        self, samples: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Say of samples of one structure whether all their chunks lie within their arrays.

        Args:
            samples: numbers of the samples.
            counts: number of chunks of each array.
        """
        offsets, nbytes = self.chunks(samples, np.arange(int(counts.sum())))
        rows = self._first_rows[samples][:, None] + np.repeat(np.arange(len(counts)), counts)
        starts, stops = self._starts[rows], self._stops[rows]
        missing = (offsets == MISSING_CHUNK) & (nbytes == MISSING_CHUNK)
        # Compared as `nbytes > stop - offset`: the sum could wrap around.
        inside = (offsets >= starts) & (nbytes <= stops - np.minimum(offsets, stops))
        result: npt.NDArray[np.bool_] = (missing | inside).all(axis=1)
        return result

    def _are_objects(self, name: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Say whether texts of a column are JSON objects, or null; each text is parsed once."""
        column, validity = self._text[name], self._validity[name]
        codes = column.codes[rows]
        new = codes[validity[codes] == _UNKNOWN]  # -1, of null, is the last place
        for code in np.unique(new).tolist():
            validity[code] = _VALID if code < 0 or _is_object(column.values[code]) else _INVALID
        valid: npt.NDArray[np.bool_] = validity[codes] == _VALID
        return valid


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
