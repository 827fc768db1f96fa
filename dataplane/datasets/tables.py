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

from dataplane.codecs import ChunkTable, Codec, Pipeline, join_rows, parse_pipeline
from dataplane.datasets.array_forms import Permuted, form_of_array
from dataplane.datasets.forms import Form, Part
from dataplane.datasets.regions import Box, check_padding, outside
from dataplane.datasets.selections import (
    ArrayForm,
    Region,
    Selection,
    WeightedSelection,
    checked_region,
    is_tiled,
    padding_of,
    region_shape,
)
from dataplane.errors import ConfigError, FormatError, MissingArray
from dataplane.shards import DatasetIndex
from dataplane.shards.model import ArrayEntry, SampleEntry

__all__ = ["SampleTables"]


class SampleTables:
    """Makes the tables of the samples of one dataset.

    Args:
        index: index of the dataset.
        selections: selections by array name.
        required: whether a sample that lacks an array is an error.
        permuted: what was permuted of each sample; None where no selection asks.
    """

    def __init__(
        self,
        index: DatasetIndex,
        selections: Mapping[str, Selection],
        *,
        required: bool,
        permuted: Permuted | None = None,
    ) -> None:
        self._permuted = permuted
        self._index = index
        self._selections = dict(selections)
        self._tiled = {name for name, one in selections.items() if is_tiled(one)}
        self._weighted = {
            name: one for name, one in selections.items() if isinstance(one, WeightedSelection)
        }
        self._required = required
        self._pipelines: dict[tuple[str, str], Pipeline] = {}

    def of(
        self, entry: SampleEntry, sample: int, draw: int, tile: int = 0, *, stored: bool = False
    ) -> tuple[tuple[Part | None, ...], list[npt.NDArray[Any]]]:
        """Return the parts of a sample and the rows of its chunks, by array.

        Args:
            entry: the sample.
            sample: its number in the index.
            draw: randomness of the selections.
            tile: number of the tile, for those that are tiled.
            stored: whether to take every chunk for one that is stored, without a place.

        Raises:
            MissingArray: the sample lacks a selected array.
            FormatError: the index says what cannot be.
            ConfigError: a selection does not fit an array.
        """
        tables: list[npt.NDArray[Any]] = []
        parts: list[Part | None] = []
        permuted = () if self._permuted is None else self._permuted[sample]
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
            form = form_of_array(array, permuted)
            drawn = tile if name in self._tiled else draw
            region = _region(form, selection, drawn, entry.key)
            dtype = array.meta.dtype.newbyteorder("=")
            weight = self._weighted[name].weight(form) if name in self._weighted else None
            parts.append(Part(region_shape(region), dtype, weight))
            tables.append(self._table(array, region, number).rows)
            if beyond := outside(region, array.meta.shape):
                tables.append(_padding(array, beyond, padding_of(selection), number).rows)
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
        parts, tables = self.of(entry, index, 0, stored=True)
        rows = join_rows(tables)
        of_array = np.array([firsts.get(name, 0) for name in self._selections], np.int64)
        read = rows[rows["codec"] != Codec.FILL]
        return Form(parts, rows, of_array[read["destination"]] + read["chunk"].astype(np.int64))

    def _table(self, array: ArrayEntry, region: Region, number: int) -> ChunkTable:
        meta = array.meta
        return ChunkTable.for_region(
            shape=meta.shape,
            chunk_shape=meta.chunk_shape,
            dtype=meta.dtype,
            pipeline=self._pipeline(array),
            offsets=array.chunk_offsets,
            nbytes=array.chunk_nbytes,
            fill_value=meta.fill_value,
            region=region,
            destination=number,
        )

    def _pipeline(self, array: ArrayEntry) -> Pipeline:
        # The index shares codec tuples between rows at best by value; their text is a safe key.
        key = (repr(array.meta.codecs), array.meta.dtype.str)
        found = self._pipelines.get(key)
        if found is None:
            found = parse_pipeline(array.meta.codecs, array.meta.dtype)
            self._pipelines[key] = found
        return found


def _region(form: ArrayForm, selection: Selection, draw: int, key: str) -> Region:
    try:
        region = selection.region(form, draw=draw)
    except ConfigError as err:
        raise ConfigError(f"sample {key!r}: {err.message}", hint=err.hint) from None
    return checked_region(region, form, selection)


def _padding(
    array: ArrayEntry, beyond: Sequence[Box], pad: float | None, number: int
) -> ChunkTable:
    """Return the rows of what a selection asks for beyond an array."""
    dtype = array.meta.dtype
    check_padding(pad, dtype, array.name)
    try:
        return ChunkTable.fill(beyond, dtype=dtype, value=pad, destination=number)
    except FormatError as err:
        raise ConfigError(f"array {array.name!r} cannot be padded with {pad!r}: {err}") from None
