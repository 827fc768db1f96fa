"""Reading of what plans need from an `index.parquet`, piece by piece: `load_columns`.

Rows come in batches of bounded size. Each is checked and made into compact columns, so that there
is never more of the decoded file in memory than one batch. Attributes and statistics are not
decoded at all: `index_records.py` does that when they are asked for.

Checked here: consecutive samples, distinct keys, names that stay below the dataset's URL, rows of a
sample that agree, ranges that nest (sample in shard, array in sample). A failed check is a
`FormatError` that names the place. Functions and values without shared state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dataplane.errors import FormatError
from dataplane.shards.index_compact import (
    CompactLists,
    CompactText,
    GrowingInts,
    IntColumn,
    narrow,
    narrow_codes,
)
from dataplane.shards.index_keys import Keys
from dataplane.shards.index_places import ChunkPlaces, PlaceParts
from dataplane.shards.index_rows import SampleRows
from dataplane.shards.index_schema import SCHEMA
from dataplane.shards.names import check_array_name, check_member_name

__all__ = ["IndexColumns", "load_columns"]

_BATCH_ROWS = 65_536
_TEXTS = ("array", "dtype", "codecs", "fill_value", "dimension_names", "units")
_RANGES = ("zip_start", "zip_stop", "start", "stop")
_SHAPES = ("shape", "chunk_shape")
_CHUNKS = ("chunk_offsets", "chunk_nbytes")
_READ = ("sample", "sample_index", "shard", *_TEXTS, *_RANGES, *_SHAPES, *_CHUNKS)


@dataclass(frozen=True, slots=True, eq=False)
class IndexColumns:
    """What plans need of an index.

    Attributes:
        rows: rows of the samples.
        keys: keys of the samples.
        shard: shard of each sample.
        zip_start: uint64[samples], first byte of each sample's archive in its shard.
        zip_nbytes: length of each sample's archive.
        start: first byte of each array, counted from that of the archive.
        nbytes: length of each array.
        text: texts of each array, by column.
        shape: shape of each array.
        chunk_shape: shape of its chunks.
        chunks: places of its chunks.
    """

    rows: SampleRows
    keys: Keys
    shard: CompactText
    zip_start: npt.NDArray[np.uint64]
    zip_nbytes: IntColumn
    start: IntColumn
    nbytes: IntColumn
    text: Mapping[str, CompactText]
    shape: CompactLists
    chunk_shape: CompactLists
    chunks: ChunkPlaces


def load_columns(file: pq.ParquetFile, shards: Mapping[str, int], where: str) -> IndexColumns:
    """Read and check what plans need.

    Args:
        file: file whose text columns are read as dictionaries.
        shards: size of every shard, by key.
        where: place to name in messages.

    Raises:
        FormatError: a check failed.
    """
    loading = _Loading(shards, where)
    # In this thread: each of Arrow's would keep some of the memory that it decodes into.
    for batch in file.iter_batches(_BATCH_ROWS, columns=list(_READ), use_threads=False):
        if batch.num_rows:
            loading.add(batch)
    return loading.finish()


class _Texts:
    """A text column while it is read: values seen so far, and codes that count them."""

    def __init__(self, name: str, where: str) -> None:
        self._name, self._where = name, where
        self._numbers: dict[str, int] = {}
        self.growing = GrowingInts()

    @property
    def values(self) -> list[str]:
        return list(self._numbers)

    def finish(self, period: int) -> CompactText:
        """Return the column."""
        return CompactText(list(self._numbers), self.growing.finish(period))

    def _check(self, value: str) -> None:
        """Check a text that is a name."""
        if self._name == "shard":
            check_member_name(value, f"{self._where}: shard")
        elif self._name == "array":
            check_array_name(value, self._where)

    def codes(self, column: Any) -> npt.NDArray[np.int64]:
        """Return the codes of a piece of the column."""
        codes, dictionary = _encoded(column, self._name, self._where)
        try:
            values = dictionary.to_pylist()
        except UnicodeDecodeError as err:
            raise FormatError(f"{self._where}: column {self._name}: {err}") from err
        for value in values:
            if value not in self._numbers:
                self._check(value)
                self._numbers[value] = len(self._numbers)
        numbers = [self._numbers[value] for value in values]
        # The code of null is -1, and so the last place.
        result: npt.NDArray[np.int64] = np.array([*numbers, -1], np.int64)[codes]
        return result


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """A batch of rows, decoded.

    Attributes:
        key_codes: which of `keys` each row has.
        keys: distinct keys, an Arrow array.
        codes: codes of the other texts, by column.
        ranges: byte ranges, by column.
    """

    key_codes: npt.NDArray[Any]
    keys: Any
    codes: Mapping[str, npt.NDArray[np.int64]]
    ranges: Mapping[str, npt.NDArray[np.uint64]]


class _Loading:
    """The columns of an index while it is read."""

    def __init__(self, shards: Mapping[str, int], where: str) -> None:
        self._where = where
        self._shards = shards
        self._rows = self._samples = 0
        self._texts = {name: _Texts(name, where) for name in ("shard", *_TEXTS)}
        self._first_rows: list[npt.NDArray[np.int64]] = []
        self._keys: list[Any] = []
        self._last: tuple[Any, ...] = ()  # key, shard and archive of the last row
        self._period = 0  # arrays of the first sample, where there is a second one
        self._zip_start: list[npt.NDArray[np.uint64]] = []
        self._zip_nbytes = GrowingInts()
        self._start, self._nbytes = GrowingInts(), GrowingInts()
        self._lengths = {name: GrowingInts() for name in (*_SHAPES, *_CHUNKS)}
        self._shapes = {name: GrowingInts() for name in _SHAPES}
        self._places = PlaceParts()

    def add(self, batch: pa.RecordBatch) -> None:
        """Add a batch of rows, at least one."""
        rows = self._decoded(batch)
        is_first = self._first_of_samples(_numbers(batch, "sample_index"))
        first = np.flatnonzero(is_first)
        self._check_samples(rows, is_first, first)
        self._check_ranges(rows)
        codes, ranges = rows.codes, rows.ranges
        self._first_rows.append(first + self._rows)
        self._keys.append(rows.keys.take(pa.array(rows.key_codes[first])))
        self._zip_start.append(ranges["zip_start"][first])
        nbytes = ranges["zip_stop"][first] - ranges["zip_start"][first]
        self._zip_nbytes.add(narrow(nbytes), 1)
        self._texts["shard"].growing.add(narrow_codes(codes["shard"][first]), 1)
        if not self._rows and len(first) > 1:
            self._period = int(first[1])
        self._start.add(narrow(ranges["start"] - ranges["zip_start"]), self._period)
        self._nbytes.add(narrow(ranges["stop"] - ranges["start"]), self._period)
        for name in _TEXTS:
            self._texts[name].growing.add(narrow_codes(codes[name]), self._period)
        self._add_lists(batch, ranges["zip_start"])
        self._rows += batch.num_rows
        self._samples += len(first)

    def _add_lists(self, batch: pa.RecordBatch, zip_start: npt.NDArray[np.uint64]) -> None:
        """Add shapes, and places of chunks."""
        flat, periods = {}, {}
        for name in (*_SHAPES, *_CHUNKS):
            lengths, flat[name] = _lists(batch.column(name), name, self._where)
            self._lengths[name].add(narrow(lengths), self._period)
            periods[name] = int(lengths[: self._period].sum())
            if name in _CHUNKS[:1]:
                bases = zip_start.repeat(lengths)
        for name in _SHAPES:
            self._shapes[name].add(narrow(flat[name]), periods[name])
        offsets, nbytes = (flat[name] for name in _CHUNKS)
        self._places.add(offsets, nbytes, bases, periods["chunk_offsets"])

    def finish(self) -> IndexColumns:
        """Return the columns."""
        keys = Keys(self._keys or [pa.array([], pa.string())], self._where)
        self._keys = []
        rows = SampleRows(np.concatenate([*self._first_rows, [self._rows]]).astype(np.int64))
        self._first_rows = []
        # Where samples have several numbers of arrays, a column may still be constant.
        period = rows.per_sample or 1
        text = {name: self._texts[name].finish(period) for name in _TEXTS}
        self._check_names(rows, keys, text["array"])
        zip_start = np.concatenate([*self._zip_start, np.zeros(0, np.uint64)])
        lengths = {name: growing.finish(period) for name, growing in self._lengths.items()}
        return IndexColumns(
            rows=rows,
            keys=keys,
            shard=self._texts["shard"].finish(1),
            zip_start=zip_start,
            zip_nbytes=self._zip_nbytes.finish(1),
            start=self._start.finish(period),
            nbytes=self._nbytes.finish(period),
            text=text,
            shape=CompactLists(lengths["shape"], self._shapes["shape"].finish),
            chunk_shape=CompactLists(lengths["chunk_shape"], self._shapes["chunk_shape"].finish),
            chunks=ChunkPlaces(
                lengths["chunk_offsets"], lengths["chunk_nbytes"], self._places, rows, zip_start
            ),
        )

    def _check_names(self, rows: SampleRows, keys: Keys, arrays: CompactText) -> None:
        """No sample may have an array twice: one of them would never be read."""
        codes = arrays.codes.repeated if rows.per_sample else None
        samples = np.zeros(len(codes), np.int64) if codes is not None else rows.all_samples()
        numbered = samples * len(arrays.values) + (arrays.codes.all() if codes is None else codes)
        numbered.sort()
        twice = numbered[1:][numbered[1:] == numbered[:-1]]
        if len(twice):
            sample, code = divmod(int(twice[0]), len(arrays.values))
            raise FormatError(
                f"{self._where}: sample {keys[sample]!r} has array {arrays.values[code]!r} twice",
                hint="pack the dataset again",
            )

    def _first_of_samples(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Say which rows are the first of a sample."""
        steps = np.diff(numbers, prepend=self._samples - 1)
        if ((steps != 0) & (steps != 1)).any() or (not self._rows and steps[0] != 1):
            raise FormatError(f"{self._where}: sample_index does not count from 0 in steps of 1")
        is_first: npt.NDArray[np.bool_] = steps == 1
        return is_first

    def _decoded(self, batch: pa.RecordBatch) -> _Rows:
        codes, keys = _encoded(batch.column("sample"), "sample", self._where)
        # Equal texts must have equal codes, also in a dictionary that has one twice.
        distinct = keys.dictionary_encode()
        return _Rows(
            distinct.indices.to_numpy()[codes],
            distinct.dictionary,
            {name: texts.codes(batch.column(name)) for name, texts in self._texts.items()},
            {name: _numbers(batch, name) for name in _RANGES},
        )

    def _check_samples(
        self, rows: _Rows, is_first: npt.NDArray[np.bool_], first: npt.NDArray[np.intp]
    ) -> None:
        """Rows of a sample must agree on its key, shard and archive."""
        columns = {
            "sample": rows.key_codes,
            "shard": rows.codes["shard"],
            "zip_start": rows.ranges["zip_start"],
            "zip_stop": rows.ranges["zip_stop"],
        }
        keys = rows.keys
        # Rows before the first sample that begins here belong to the last one of the batch before.
        begun = int(first[0]) if len(first) else len(is_first)
        first_of_rows = first[np.cumsum(is_first[begun:]) - 1]
        for place, (name, values) in enumerate(columns.items()):
            agrees = np.array_equal(values[begun:], values[first_of_rows])
            for value in np.unique(values[:begun]).tolist():
                agrees &= (keys[value].as_py() if name == "sample" else value) == self._last[place]
            if not agrees:
                for key in keys.to_pylist() if name == "sample" else ():
                    check_member_name(key, f"{self._where}: sample")  # which says more
                raise FormatError(f"{self._where}: rows of a sample disagree on {name}")
        try:
            last_key = keys[int(rows.key_codes[-1])].as_py()
        except UnicodeDecodeError as err:
            raise FormatError(f"{self._where}: column sample: {err}") from err
        self._last = (last_key, *(int(columns[name][-1]) for name in list(columns)[1:]))

    def _check_ranges(self, rows: _Rows) -> None:
        """Archives must lie in their shard, arrays in their archive."""
        shards = self._texts["shard"].values
        sizes = np.array([self._shards.get(key, 0) for key in shards], np.uint64)
        zip_start, zip_stop, start, stop = (rows.ranges[name] for name in _RANGES)
        ordered = (zip_start <= start) & (start <= stop) & (stop <= zip_stop)
        ordered &= zip_stop <= sizes[rows.codes["shard"]]
        if not ordered.all():
            row = int(np.flatnonzero(~ordered)[0])
            raise FormatError(
                f"{self._where}: sample {rows.keys[int(rows.key_codes[row])].as_py()!r}, array "
                f"{self._texts['array'].values[rows.codes['array'][row]]!r}: bytes {start[row]} to "
                f"{stop[row]} are not inside the archive or the shard "
                f"{shards[rows.codes['shard'][row]]!r}"
            )


def _encoded(column: Any, name: str, where: str) -> tuple[npt.NDArray[Any], Any]:
    """Return the codes of texts, -1 for null, and what they count.

    Raises:
        FormatError: there are nulls and must be none, or codes count what is not there.
    """
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    if column.null_count and not SCHEMA.field(name).nullable:
        raise FormatError(f"{where}: column {name}: it must have no nulls")
    codes = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    if len(codes) and not -1 <= codes.min() <= codes.max() < len(column.dictionary):
        raise FormatError(f"{where}: column {name}: it refers to text that is not there")
    return codes, column.dictionary


def _numbers(batch: pa.RecordBatch, name: str) -> npt.NDArray[Any]:
    """Return numbers; nulls become 0."""
    column: Any = batch.column(name)
    if column.null_count:
        column = column.fill_null(0)
    result: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return result


def _lists(column: Any, name: str, where: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint64]]:
    """Return the lengths of lists, and their numbers one after another."""
    offsets = column.offsets.to_numpy()
    values = column.values[int(offsets[0]) : int(offsets[-1])]
    if column.null_count or values.null_count:
        raise FormatError(f"{where}: column {name} must have no nulls")
    return np.diff(offsets).view(np.uint32), values.to_numpy()
