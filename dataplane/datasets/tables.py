"""Tables of the chunks of one sample, for its selections, as the index places them in its shard.

Thread-safe.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.codecs import ChunkTable, Pipeline, join_rows, parse_pipeline
from dataplane.datasets.forms import Form, Part
from dataplane.datasets.selections import Selection, box_shape
from dataplane.errors import FormatError, MissingArray
from dataplane.shards import DatasetIndex
from dataplane.shards.model import ArrayEntry, SampleEntry

__all__ = ["SampleTables"]


class SampleTables:
    """Makes the tables of the samples of one dataset.

    Args:
        index: index of the dataset.
        selections: selections by array name.
        required: whether a sample that lacks an array is an error.
    """

    def __init__(
        self, index: DatasetIndex, selections: Mapping[str, Selection], *, required: bool
    ) -> None:
        self._index = index
        self._selections = dict(selections)
        self._required = required
        self._pipelines: dict[tuple[str, str], Pipeline] = {}

    def of(
        self, entry: SampleEntry, draw: int, *, stored: bool = False
    ) -> tuple[tuple[Part | None, ...], list[npt.NDArray[Any]]]:
        """Return the parts of a sample and the rows of its chunks, by array and box.

        Args:
            entry: the sample.
            draw: randomness of the selections.
            stored: whether to take every chunk for one that is stored, without a place.

        Raises:
            MissingArray: the sample lacks a selected array.
            FormatError: the index says what cannot be.
        """
        tables: list[npt.NDArray[Any]] = []
        parts: list[Part | None] = []
        for number, (name, selection) in enumerate(self._selections.items()):
            array = entry.arrays.get(name)
            if array is None and not self._required:
                parts.append(None)
                continue
            if array is None:
                raise MissingArray(
                    f"sample {entry.key!r} has no array {name!r}",
                    hint='leave the array out, or use errors="skip" or errors="replace"',
                )
            if array.shard != entry.shard:
                raise FormatError(
                    f"sample {entry.key!r}: array {name!r} is in {array.shard}, "
                    f"the sample is in {entry.shard}"
                )
            if stored:
                nothing = np.zeros(len(array.chunk_offsets), np.uint64)
                array = replace(array, chunk_offsets=nothing, chunk_nbytes=nothing)
            boxes = selection.boxes(array.meta.shape, draw=draw)
            parts.append(Part(box_shape(boxes), array.meta.dtype.newbyteorder("=")))
            first = 0
            for box in boxes:
                tables.append(self._table(array, box, number, first).rows)
                first += box[0][1] - box[0][0] if box else 0
        return tuple(parts), tables

    def form(self, index: int) -> Form:
        """Return what the plan of a sample has in common with those of its structure.

        Raises:
            MissingArray: as `of`.
            FormatError: as `of`, or the index says what cannot be.
        """
        entry = self._index.places(index)
        counts = [len(array.chunk_offsets) for array in entry.arrays.values()]
        firsts = dict(zip(entry.arrays, itertools.accumulate(counts, initial=0), strict=False))
        parts, tables = self.of(entry, 0, stored=True)
        rows = join_rows(tables)
        of_array = np.array([firsts.get(name, 0) for name in self._selections], np.int64)
        return Form(parts, rows, of_array[rows["destination"]] + rows["chunk"].astype(np.int64))

    def _table(
        self, array: ArrayEntry, box: Sequence[tuple[int, int]], number: int, first: int
    ) -> ChunkTable:
        meta = array.meta
        return ChunkTable.for_box(
            shape=meta.shape,
            chunk_shape=meta.chunk_shape,
            dtype=meta.dtype,
            pipeline=self._pipeline(array),
            offsets=array.chunk_offsets,
            nbytes=array.chunk_nbytes,
            fill_value=meta.fill_value,
            box=box,
            source=0,
            source_start=0,
            destination=number,
            destination_start=(first, *(0 for _ in meta.shape[1:])) if meta.shape else (),
        )

    def _pipeline(self, array: ArrayEntry) -> Pipeline:
        # The index shares codec tuples between rows at best by value; their text is a safe key.
        key = (repr(array.meta.codecs), array.meta.dtype.str)
        found = self._pipelines.get(key)
        if found is None:
            found = parse_pipeline(array.meta.codecs, array.meta.dtype)
            self._pipelines[key] = found
        return found
