"""Sample plans: byte ranges to read and a table of chunks to decode, for a sample's selections.

A plan says which bytes of the shard a sample needs (*spans*: neighbouring chunks merged, so that a
whole sample is usually one range) and, for every chunk, where it lies in those bytes once they are
read one after another (*packed*), and where its elements go. Plans are made with NumPy over all
chunks at once and kept, most recently used first, within `MAX_KEPT_BYTES`; a plan of a random
selection is made anew each time.

Offsets and lengths come from the index, which is untrusted: every chunk must lie inside its shard.

Thread-safe; the lock guards the kept plans and is not held while one is made.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.cache.read.ranges import ROUND_TRIP_BYTES, merge_ranges
from dataplane.codecs import ChunkTable, Codec, Pipeline, join_rows, parse_pipeline
from dataplane.datasets.selections import Selection, box_shape
from dataplane.errors import FormatError, MissingArray
from dataplane.shards import DatasetIndex
from dataplane.shards.model import ArrayEntry, SampleEntry
from dataplane.stores.base import ObjectInfo

__all__ = ["Part", "Planner", "SamplePlan"]

MAX_KEPT_BYTES = 64 << 20
_PLAN_OVERHEAD_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Part:
    """The selection of one array of a sample.

    Attributes:
        shape: shape of the selection.
        dtype: type of its elements, native byte order.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Size of the decoded selection."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class SamplePlan:
    """Plan of what to read and decode for one sample.

    Attributes:
        index: number of the sample in the dataset.
        entry: its row in the index.
        parts: part of each selected array; None for an array that the sample lacks.
        spans: byte ranges of the shard to read, in order, apart from each other.
        rows: CHUNK_DTYPE[n], offsets relative to the packed spans; `destination` is the number of
            the selected array, `source` is 0.
        packed_bytes: length of all spans together.
    """

    index: int
    entry: SampleEntry
    parts: tuple[Part | None, ...]
    spans: tuple[tuple[int, int], ...]
    rows: npt.NDArray[Any]
    packed_bytes: int

    def shard_offset(self, packed_offset: int) -> int:
        """Return where a byte of the packed spans lies in the shard."""
        for start, stop in self.spans:
            if packed_offset < stop - start:
                return start + packed_offset
            packed_offset -= stop - start
        return self.spans[-1][1] if self.spans else 0

    @property
    def kept_bytes(self) -> int:
        """About how much memory keeping this plan costs."""
        return int(self.rows.nbytes) + _PLAN_OVERHEAD_BYTES


class Planner:
    """Makes plans for the samples of one dataset, and keeps some.

    Args:
        index: index of the dataset.
        selections: selections by array name.
        describe: function from a shard to the object that it is.
        required: whether a sample that lacks an array is an error.
    """

    def __init__(
        self,
        index: DatasetIndex,
        selections: Mapping[str, Selection],
        describe: Callable[[str], ObjectInfo],
        *,
        required: bool,
    ) -> None:
        self._index = index
        self._selections = dict(selections)
        self._describe = describe
        self._required = required
        self._keep = not any(selection.is_random for selection in selections.values())
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, SamplePlan] = OrderedDict()
        self._kept_bytes = 0
        self._pipelines: dict[tuple[str, str], Pipeline] = {}

    def plan(self, index: int, *, draw: int = 0) -> SamplePlan:
        """Return the plan of a sample.

        Raises:
            MissingArray: the sample lacks a selected array.
            FormatError: the index says what cannot be.
            NotFound: there is no such shard.
        """
        if self._keep:
            with self._lock:
                plan = self._kept.get(index)
                if plan is not None:
                    self._kept.move_to_end(index)
                    return plan
        plan = self._make(index, draw)
        if self._keep:
            with self._lock:
                if index not in self._kept:
                    self._kept[index] = plan
                    self._kept_bytes += plan.kept_bytes
                while self._kept_bytes > MAX_KEPT_BYTES and len(self._kept) > 1:
                    _, dropped = self._kept.popitem(last=False)
                    self._kept_bytes -= dropped.kept_bytes
        return plan

    def _make(self, index: int, draw: int) -> SamplePlan:
        entry = self._index[index]
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
            boxes = selection.boxes(array.meta.shape, draw=draw)
            parts.append(Part(box_shape(boxes), array.meta.dtype.newbyteorder("=")))
            first = 0
            for box in boxes:
                tables.append(self._table(array, box, number, first).rows)
                first += box[0][1] - box[0][0] if box else 0
        rows = join_rows(tables)
        spans, packed_bytes = _pack(rows, self._describe(entry.shard), entry)
        return SamplePlan(index, entry, tuple(parts), spans, rows, packed_bytes)

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


def _pack(
    rows: npt.NDArray[Any], info: ObjectInfo, entry: SampleEntry
) -> tuple[tuple[tuple[int, int], ...], int]:
    """Merge the chunks of `rows` into spans and make their offsets relative to them, in place."""
    stored = np.flatnonzero(rows["codec"] != Codec.FILL)
    if not stored.size:
        return (), 0
    starts = rows["source_offset"][stored]
    nbytes = rows["source_nbytes"][stored]
    size = np.uint64(info.size_bytes)
    outside = (starts > size) | (nbytes > size - np.minimum(starts, size))
    if outside.any():
        bad = int(np.flatnonzero(outside)[0])
        raise FormatError(
            f"sample {entry.key!r}: a chunk at byte {int(starts[bad])} with {int(nbytes[bad])} "
            f"bytes lies outside its shard {info.key} of {info.size_bytes} bytes",
            hint="the index and the shard do not belong together; pack the dataset again",
        )
    table = merge_ranges(starts, starts + nbytes, ROUND_TRIP_BYTES)
    span_of = np.searchsorted(table[:, 0], starts, side="right") - 1
    rows["source_offset"][stored] = starts - table[span_of, 0] + table[span_of, 2]
    spans = tuple((start, stop) for start, stop, _ in table.tolist())
    return spans, int((table[:, 1] - table[:, 0]).sum())
