"""Sample plans: byte ranges to read and a table of chunks to decode, for a sample's selections.

A plan says which bytes of the shard a sample needs (*spans*: neighbouring chunks merged, so that a
whole sample is usually one range) and, for every chunk, where it lies in those bytes once they are
read one after another (*packed*), and where its elements go. Plans are made with NumPy over all
chunks at once and kept, most recently used first, within `MAX_KEPT_BYTES`: a random selection is
planned by who fetches ahead, and soon asked for by the reader. Samples that have a form
(`forms.py`) are planned many at once.

Offsets and lengths come from the index, which is untrusted: every chunk must lie inside its shard.

Thread-safe; the lock guards the kept plans and is not held while one is made.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.cache.read.ranges import ROUND_TRIP_BYTES, merge_ranges
from dataplane.codecs import Codec, join_rows
from dataplane.datasets.array_forms import Permuted
from dataplane.datasets.forms import FormTable, Part, SamplesPlan
from dataplane.datasets.numbering import Numbering
from dataplane.datasets.selections import Selection, Whole
from dataplane.datasets.tables import SampleTables
from dataplane.errors import FormatError
from dataplane.shards import DatasetIndex
from dataplane.shards.model import SampleEntry
from dataplane.stores.base import ObjectInfo

__all__ = ["Part", "Planner", "SamplePlan"]

MAX_KEPT_BYTES = 64 << 20
PARTIAL_GAP_BYTES = 16 << 10
"""Chunks of a part this close are read together: what lies between is fetched for nothing."""

_PLAN_OVERHEAD_BYTES = 4096


@dataclass(frozen=True, slots=True, eq=False)
class SamplePlan:
    """Plan of what to read and decode for one sample.

    Attributes:
        index: number in the dataset.
        key: key of the sample.
        shard: object that holds it.
        parts: part of each selected array; None for an array that the sample lacks.
        spans: byte ranges of the shard to read, in order, apart from each other.
        rows: CHUNK_DTYPE[n], offsets relative to the packed spans; `destination` is the number of
            the selected array, `source` is 0.
        packed_bytes: length of all spans together.
        samples: index of the dataset.
        sample: number of the sample in the index.
        tile: number of the tile of it; None where it is not tiled.
    """

    index: int
    key: str
    shard: str
    parts: tuple[Part | None, ...]
    spans: tuple[tuple[int, int], ...]
    rows: npt.NDArray[Any]
    packed_bytes: int
    samples: DatasetIndex
    sample: int
    tile: int | None = None

    @property
    def entry(self) -> SampleEntry:
        """What the index says about the sample, but for attributes; made anew."""
        return self.samples.places(self.sample)

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
        numbering: what the numbers of the dataset stand for.
        permuted: what was permuted of each sample; None where no selection asks.

    Attributes:
        forms: forms of the samples; None where selections draw at random or are tiled.
        is_random: whether a selection draws at random.
        numbering: as given.
    """

    def __init__(
        self,
        index: DatasetIndex,
        selections: Mapping[str, Selection],
        describe: Callable[[str], ObjectInfo],
        *,
        required: bool,
        numbering: Numbering,
        permuted: Permuted | None = None,
    ) -> None:
        self.numbering = numbering
        self._index = index
        self._describe = describe
        self._tables = SampleTables(index, selections, required=required, permuted=permuted)
        self.is_random = any(selection.is_random for selection in selections.values())
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, int], SamplePlan] = OrderedDict()
        self._kept_bytes = 0
        is_whole = all(isinstance(selection, Whole) for selection in selections.values())
        self._gap_bytes = ROUND_TRIP_BYTES if is_whole else PARTIAL_GAP_BYTES
        self.forms: FormTable | None = None
        if not self.is_random and numbering.is_plain and not numbering.is_tiled:
            self.forms = FormTable(
                index.chunks,
                len(index),
                self._tables.form,
                lambda shard: describe(shard).size_bytes,
                self._gap_bytes,
                kinds=None if permuted is None else permuted.kinds,
            )

    def plan(self, index: int, *, draw: int = 0) -> SamplePlan:
        """Return the plan of a sample, by its number in the dataset.

        Raises:
            MissingArray: the sample lacks a selected array.
            ConfigError: a selection does not fit an array.
            FormatError: the index says what cannot be.
            NotFound: there is no such shard.
        """
        asked = (index, draw if self.is_random else 0)
        with self._lock:
            plan = self._kept.get(asked)
            if plan is not None:
                self._kept.move_to_end(asked)
                return plan
        plan = self._make(index, draw)
        with self._lock:
            if asked not in self._kept:
                self._kept[asked] = plan
                self._kept_bytes += plan.kept_bytes
            while self._kept_bytes > MAX_KEPT_BYTES and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._kept_bytes -= dropped.kept_bytes
        return plan

    def plan_many(self, samples: npt.NDArray[np.int64]) -> SamplesPlan | None:
        """Return the plan of samples together, or None if one of them must be planned by itself."""
        return None if self.forms is None else self.forms.plan(samples)

    def keys(self, samples: npt.NDArray[np.int64]) -> list[str]:
        """Return the keys of samples."""
        return self._index.keys.take(samples)

    def shard(self, number: int) -> str:
        """Return the key of the shard that a `SamplesPlan` numbers."""
        return self._index.chunks.shards[number]

    def _make(self, index: int, draw: int) -> SamplePlan:
        sample, part = self.numbering.split(index)
        if self.forms is not None and 0 <= index < len(self._index):
            together = self.forms.plan(np.array([index]))
            if together is not None:
                return self._single(together)
        entry = self._index.places(sample)
        parts, tables = self._tables.of(entry, sample, draw, part)
        rows = join_rows(tables)
        info = self._describe(entry.shard)
        spans, packed_bytes = _pack(rows, info, entry, self._gap_bytes)
        return SamplePlan(
            index,
            entry.key,
            entry.shard,
            parts,
            spans,
            rows,
            packed_bytes,
            self._index,
            sample,
            part if self.numbering.is_tiled else None,
        )

    def _single(self, together: SamplesPlan) -> SamplePlan:
        """Return the plan of one sample as that of its own."""
        index, (form,) = int(together.samples[0]), together.forms
        rows, _ = together.rows([form.rows])
        ((start, stop),) = together.spans.tolist()
        return SamplePlan(
            index,
            self._index.keys[index],
            self.shard(int(together.shards[0])),
            form.parts,
            ((start, stop),) if stop > start or (rows["codec"] != Codec.FILL).any() else (),
            rows,
            stop - start,
            self._index,
            index,
        )


def _pack(
    rows: npt.NDArray[Any], info: ObjectInfo, entry: SampleEntry, gap_bytes: int
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
    table = merge_ranges(starts, starts + nbytes, gap_bytes)
    span_of = np.searchsorted(table[:, 0], starts, side="right") - 1
    rows["source_offset"][stored] = starts - table[span_of, 0] + table[span_of, 2]
    spans = tuple((start, stop) for start, stop, _ in table.tolist())
    return spans, int((table[:, 1] - table[:, 0]).sum())
