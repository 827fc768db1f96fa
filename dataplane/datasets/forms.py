"""Forms of samples: plans of many samples at once, by NumPy over the columns of the index.

Samples of the same structure (`shards/index_chunks.py`) have plans that differ only in where chunks
lie and which are not stored. A `Form` is what is the same: rows of the table of chunks, and the
parts. `FormTable` knows the form of every sample that was asked for so far, and the byte range of
the shard that has all its chunks: 32 bytes per sample, found for whole stretches of samples.

A sample has no form, and is planned by itself, when something about it is wrong, so that errors are
those of the single plan; when its chunks do not lie together; and when its structure is one of too
many. Only selections that do not draw at random have forms.

Thread-safe: two threads may find the same, and write the same; the lock guards the list of forms.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.codecs import Codec
from dataplane.codecs.table import MAX_DIMS
from dataplane.errors import DataplaneError
from dataplane.shards.index_chunks import ChunkColumns
from dataplane.shards.model import MISSING_CHUNK

__all__ = ["Form", "FormTable", "Part", "SamplesPlan"]

MAX_FORMS = 4096
MAX_FORM_BYTES = 64 << 20
"""Most forms that are kept, and the most memory that their rows may take."""

_UNKNOWN, _NONE = -1, -2
_Rows = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Part:
    """The selection of one array of a sample.

    Attributes:
        shape: shape of the selection.
        dtype: type of its elements, native byte order.
        weight: how many elements each one stands for, of a random sample of them; None for others.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    weight: float | None = None

    @property
    def nbytes(self) -> int:
        """Size of the decoded selection."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """What the plans of samples of one structure have in common.

    Attributes:
        parts: part of each selected array; None for an array that the samples lack.
        rows: CHUNK_DTYPE[n], rows as in `SamplePlan`, but for the places of the chunks.
        chunks: int64[m], the chunk of each row that is read from one, counted over all arrays of a
            sample.
        nbytes: size of the decoded selections.
        read: which rows these are, all or bool[n]: padding comes from no chunk.
    """

    parts: tuple[Part | None, ...]
    rows: _Rows
    chunks: npt.NDArray[np.int64]
    nbytes: int = field(init=False)
    read: slice | npt.NDArray[np.bool_] = field(init=False)
    _in_batch: dict[tuple[bool, ...], _Rows] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        nbytes = sum(part.nbytes for part in self.parts if part is not None)
        object.__setattr__(self, "nbytes", nbytes)
        is_read = self.rows["codec"] != Codec.FILL
        object.__setattr__(self, "read", slice(None) if is_read.all() else is_read)

    def rows_in_batch(self, is_stacked: tuple[bool, ...]) -> _Rows:
        """Return the rows with one more dimension for arrays that are stacked, the place in it 0.

        Args:
            is_stacked: whether samples of an array lie along a first dimension of the batch.
        """
        rows = self._in_batch.get(is_stacked)
        if rows is None:
            rows = self.rows.copy()
            stacked = np.array(is_stacked, bool)[rows["destination"]]
            for name, first in (
                *(("chunk_shape", 1), ("chunk_start", 0)),
                *(("extent", 1), ("destination_start", 0)),
            ):
                rows[name][stacked, 1:] = self.rows[name][stacked, : MAX_DIMS - 1]
                rows[name][stacked, 0] = first
            rows["ndim"][stacked] += 1
            self._in_batch[is_stacked] = rows
        return rows


@dataclass(frozen=True, slots=True, eq=False)
class SamplesPlan:
    """Plan of what to read and decode for several samples, each of which has a form.

    Attributes:
        samples: int64[samples], their numbers in the dataset.
        forms: forms that occur.
        form: int[samples], which of `forms` each sample has; None where there is only one.
        shards: int64[samples], number of the shard of each.
        spans: int64[samples, 2], first byte of each in its shard, and where it ends.
        places: int64[samples], where each lies when they are read one after another, those of a
            shard together.
        packed_bytes: length of what is read.
        longest_bytes: length of the longest span.
    """

    samples: npt.NDArray[np.int64]
    forms: Sequence[Form]
    form: npt.NDArray[np.intp] | None
    shards: npt.NDArray[np.int64]
    spans: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    packed_bytes: int
    longest_bytes: int
    _columns: ChunkColumns

    @property
    def decoded_bytes(self) -> int:
        """Size of the decoded selections, all samples together."""
        return int(self.of_form([form.nbytes for form in self.forms]).sum())

    def of_form(self, values: Sequence[int]) -> npt.NDArray[np.int64]:
        """Return for each sample the value of its form: int64[samples]."""
        if self.form is None:
            return np.full(len(self.samples), values[0], np.int64)
        return np.array(values, np.int64)[self.form]

    def rows(self, templates: Sequence[_Rows]) -> tuple[_Rows, npt.NDArray[np.intp]]:
        """Return the rows of all samples, in order; `source_offset` is that in what is read.

        Args:
            templates: CHUNK_DTYPE rows of each form, as `Form.rows` or `Form.rows_in_batch`.

        Returns:
            CHUNK_DTYPE[n], and int[n], the place of each row's sample among the samples.
        """
        count = len(self.samples)
        if self.form is None:
            rows = self._rows_of(0, templates[0], slice(None))
            return rows, np.arange(count).repeat(len(templates[0]))
        lengths = self.of_form([len(template) for template in templates])
        bounds = lengths.cumsum() - lengths
        joined = np.empty(int(lengths.sum()), templates[0].dtype)
        opaque = np.dtype((np.void, joined.dtype.itemsize))
        for number, template in enumerate(templates):
            slots = np.flatnonzero(self.form == number)
            rows = self._rows_of(number, template, slots)
            places = bounds[slots][:, None] + np.arange(len(template))
            joined.view(opaque)[places.reshape(-1)] = rows.view(opaque)
        return joined, np.arange(count).repeat(lengths)

    def _rows_of(self, number: int, template: _Rows, slots: Any) -> _Rows:
        """Return the rows of the samples of one form."""
        samples = self.samples[slots]
        rows = np.empty((len(samples), len(template)), template.dtype)
        # As opaque bytes: NumPy copies structured rows field by field.
        opaque = np.dtype((np.void, template.dtype.itemsize))
        rows.view(opaque)[:] = template.view(opaque)
        form = self.forms[number]
        offsets, nbytes = self._columns.chunks(samples, form.chunks)
        shift = self.places[slots] - self.spans[slots, 0]  # may be below 0: offsets wrap around
        rows["source_nbytes"][:, form.read] = nbytes
        rows["source_offset"][:, form.read] = offsets + shift.view(np.uint64)[:, None]
        is_missing = offsets == MISSING_CHUNK
        if is_missing.any():
            missing = np.zeros(rows.shape, bool)
            missing[:, form.read] = is_missing
            rows["codec"][missing] = Codec.FILL
            rows["source_offset"][missing] = 0
            rows["source_nbytes"][missing] = 0
        return rows.reshape(-1)


class FormTable:
    """The form of every sample, found as it is asked for.

    Args:
        columns: columns of the index.
        length: length of the dataset.
        make: function that makes the form of a sample; it raises a `DataplaneError` where it
            cannot.
        shard_bytes: function from a shard to its length; it may raise a `DataplaneError`.
        gap_bytes: chunks this close are read together.
        kinds: function from int64[n], samples, to int64[n] that differ where samples of one
            structure have different forms all the same; None where there are no such samples.
    """

    def __init__(
        self,
        columns: ChunkColumns,
        length: int,
        make: Callable[[int], Form],
        shard_bytes: Callable[[str], int],
        gap_bytes: int,
        *,
        kinds: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]] | None = None,
    ) -> None:
        self._kinds = kinds
        self._columns = columns
        self._make = make
        self._shard_bytes = shard_bytes
        self._gap_bytes = np.uint64(gap_bytes)
        self._lock = threading.Lock()
        self._forms: list[Form] = []
        self._by_structure: dict[bytes, int] = {}
        self._form_bytes = 0
        # Of each sample: form, shard, first byte, end. One array, so that one look-up has them all.
        self._places = np.full((length, 4), _UNKNOWN, np.int64)
        self._known_shard_bytes = np.zeros(len(columns.shards), np.uint64)

    def find(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return what is known of samples, after finding it for those that were not asked for.

        Returns:
            int64[samples, 4]: number of the form, below 0 for a sample that has none; number of the
            shard; first byte in it; end.
        """
        places = self._places[samples]
        if places[:, 0].min(initial=0) == _UNKNOWN:
            for stretch in self._columns.stretches(np.unique(samples[places[:, 0] == _UNKNOWN])):
                self._find(stretch)
            places = self._places[samples]
        return places

    def plan(self, samples: npt.NDArray[np.int64]) -> SamplesPlan | None:
        """Return the plan of samples, at least one; None if one of them has no form."""
        places = self.find(samples)
        low, high = places.min(axis=0).tolist(), places.max(axis=0).tolist()
        if low[0] < 0:
            return None
        lengths = places[:, 3] - places[:, 2]
        if low[1] == high[1]:
            ends = lengths.cumsum()
        else:
            order = np.argsort(places[:, 1], kind="stable")
            ends = np.empty_like(lengths)
            ends[order] = lengths[order].cumsum()
        if low[0] == high[0]:
            forms, form = [self._forms[low[0]]], None
        else:
            found, form = np.unique(places[:, 0], return_inverse=True)
            forms = [self._forms[number] for number in found.tolist()]
        return SamplesPlan(
            samples,
            forms,
            form,
            places[:, 1],
            places[:, 2:],
            ends - lengths,
            int(lengths.sum()),
            int(lengths.max()),
            self._columns,
        )

    def _find(self, samples: npt.NDArray[np.int64]) -> None:
        """Find the forms of a stretch of samples, none twice."""
        counts = self._columns.row_counts(samples)
        for arrays in np.unique(counts).tolist():
            alike = samples[counts == arrays]
            structures, whole = self._columns.structures(alike, arrays)
            self._places[alike[~whole], 0] = _NONE
            alike, structures = alike[whole], structures[whole]
            if not len(alike):
                continue
            if self._kinds is not None:
                structures = np.column_stack([structures, self._kinds(alike)])
            if (structures == structures[0]).all():
                self._enter(alike, structures[0])
                continue
            opaque = structures.view(np.dtype((np.void, structures[0].nbytes))).reshape(-1)
            _, first, of = np.unique(opaque, return_index=True, return_inverse=True)
            for group, place in enumerate(first.tolist()):
                self._enter(alike[of == group], structures[place])

    def _enter(self, samples: npt.NDArray[np.int64], structure: npt.NDArray[np.int64]) -> None:
        """Note the form and the places of samples that have one structure."""
        sound = self._columns.are_within(samples, self._columns.chunk_counts(int(samples[0])))
        self._places[samples[~sound], 0] = _NONE
        samples = samples[sound]
        number = self._number_of(int(samples[0]), structure) if len(samples) else _NONE
        if number < 0:
            self._places[samples, 0] = _NONE
            return
        starts, stops, together = self._span(
            *self._columns.chunks(samples, self._forms[number].chunks)
        )
        shards = self._columns.shard_of(samples)
        size_bytes, known = self._sizes(shards)
        self._places[samples, 1] = shards
        self._places[samples, 2], self._places[samples, 3] = starts, stops
        found = np.where(together & (stops <= size_bytes), number, _NONE)
        # Last: another thread that sees the form has the places as well.
        self._places[samples, 0] = np.where(known, found, _UNKNOWN)

    def _number_of(self, sample: int, structure: npt.NDArray[np.int64]) -> int:
        """Return the number of the form of a structure, made from a sample that has it."""
        key = structure.tobytes()
        number = self._by_structure.get(key)
        if number is not None:
            return number
        if len(self._by_structure) >= MAX_FORMS or self._form_bytes >= MAX_FORM_BYTES:
            return _NONE
        try:
            form = self._make(sample)
        except DataplaneError:
            form = None  # the single plan of each of these samples says why
        with self._lock:
            if key not in self._by_structure:
                self._by_structure[key] = _NONE if form is None else len(self._forms)
                if form is not None:
                    self._forms.append(form)
                    self._form_bytes += 2 * form.rows.nbytes
            return self._by_structure[key]

    def _span(
        self, offsets: npt.NDArray[np.uint64], nbytes: npt.NDArray[np.uint64]
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
        """Return where the stored chunks of each sample begin and end, and if they lie together."""
        ends = np.where(offsets == MISSING_CHUNK, 0, offsets + nbytes)
        first = offsets.min(axis=1, initial=MISSING_CHUNK)  # which is above all others
        last = ends.max(axis=1, initial=0)
        first[first == MISSING_CHUNK] = 0
        together = last - first <= self._gap_bytes
        if not together.all():
            wide = np.flatnonzero(~together)
            order = np.argsort(offsets[wide], axis=1)
            ordered = np.take_along_axis(offsets[wide], order, axis=1)
            reach = np.maximum.accumulate(np.take_along_axis(ends[wide], order, axis=1), axis=1)
            is_break = ordered[:, 1:] > reach[:, :-1] + self._gap_bytes
            together[wide] = ~(is_break & (ordered[:, 1:] != MISSING_CHUNK)).any(axis=1)
        return first, last, together

    def _sizes(
        self, shards: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
        """Return the length of each shard, and whether it is known: it may be out of reach."""
        for number in np.unique(shards[self._known_shard_bytes[shards] == 0]).tolist():
            try:
                self._known_shard_bytes[number] = self._shard_bytes(self._columns.shards[number])
            except DataplaneError:
                continue
        size_bytes = self._known_shard_bytes[shards]
        return size_bytes, size_bytes > 0
