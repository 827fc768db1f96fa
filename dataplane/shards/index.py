"""The dataset index, `index.parquet`: the samples, and the place of every chunk of every array.

`DatasetIndex.load` reads the file once and keeps it as Arrow columns; an entry is made when it is
asked for, from NumPy views of those columns, so that a dataset of 10^5 samples costs no Python
object per array up front, and chunk tables are never copied.

The index is not trusted. At load: format name and version, columns and types, declared sizes,
consecutive samples, distinct keys, shard names that stay below the dataset's URL, ranges that nest
(sample in shard, array in sample). Per entry: element type, shapes, codec chain, as many chunks as
the grid has, every chunk inside its array. A failed check is a `FormatError` that names the place.

Immutable after load, so thread-safe; pickles as its columns.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dataplane.errors import BucketNotFound, ConfigError, FormatError, NotFound
from dataplane.shards.absence import why_no_index
from dataplane.shards.index_added import AddedColumns
from dataplane.shards.index_chunks import ChunkColumns
from dataplane.shards.index_columns import Keys, ListColumn, TextColumn, numbers, one_chunk
from dataplane.shards.index_schema import (
    ADDED,
    FORMAT_NAME,
    FORMAT_VERSION,
    INDEX_KEY,
    NAME_FIELD,
    SCHEMA,
    SHARDS_FIELD,
    VERSION_FIELD,
)
from dataplane.shards.model import MISSING_CHUNK, ArrayEntry, ArrayMeta, SampleEntry, Stats
from dataplane.shards.names import check_array_name, check_member_name
from dataplane.shards.zarr_metadata import (
    grid_size,
    parse_codecs,
    parse_dtype,
    parse_fill_value,
    parse_shape,
)
from dataplane.stores.base import Buffer, ObjectInfo, Store

__all__ = ["DatasetIndex"]

_MAX_INDEX_BYTES = 4 << 30
_MAX_DECODED_BYTES = 32 << 30
_TEXT = tuple(field.name for field in SCHEMA if field.type == pa.string())
_NUMBERS = tuple(
    field.name for field in SCHEMA if field.type in (pa.uint64(), pa.int64(), pa.float64())
)
_LISTS = tuple(field.name for field in SCHEMA if field.type == pa.list_(pa.uint64()))


class DatasetIndex:
    """The samples of a packed dataset, as a sequence of `SampleEntry`.

    Example:
        >>> index = DatasetIndex.load(store)                          # doctest: +SKIP
        >>> index[0].arrays["points"].meta.shape                      # doctest: +SKIP
        (81_920, 3)
    """

    def __init__(self, table: pa.Table, where: str) -> None:
        self._table = table
        self._where = where
        self._shards = _parse_header(table.schema.metadata or {}, where)
        self._numbers = {name: numbers(table, name) for name in _NUMBERS}
        self._has_stats = one_chunk(table, "nan_count").is_valid().to_numpy(zero_copy_only=False)
        self._added = AddedColumns(table)
        self._text = {name: TextColumn(table, name, where) for name in _TEXT}
        self._lists = {name: ListColumn(table, name, where) for name in _LISTS}
        self._first_rows = _first_rows(self._numbers["sample_index"], where)
        self._keys = Keys(self._text["sample"], self._first_rows)
        self._chunks = ChunkColumns(self._first_rows, self._text, self._lists, self._numbers)
        self._check_names()
        self._check_samples()
        self._check_ranges()

    @classmethod
    def load(cls, store: Store, read: Callable[[ObjectInfo], Buffer] | None = None) -> DatasetIndex:
        """Read the index of the dataset at a store's URL.

        Args:
            store: store of the dataset.
            read: function that reads a whole object of the store; by default straight from it.

        Raises:
            FormatError: there is no index among the objects, or it is damaged, of another format
                or of a newer version.
            NotFound: there is nothing: no such bucket or folder, or none that holds anything.
            StoreError: the store failed.
        """
        where = f"{store.url.rstrip('/')}/{INDEX_KEY}"
        try:
            info = store.head(INDEX_KEY)
        except BucketNotFound:
            raise
        except NotFound:
            # Without a cause: that there is no such object is all that it says.
            raise why_no_index(store) from None
        if info.size_bytes > _MAX_INDEX_BYTES:
            raise FormatError(f"{where}: {info.size_bytes} bytes are too many for an index")
        if read is not None:
            return cls.parse(read(info), where)
        data = store.get_range(INDEX_KEY, 0, info.size_bytes, if_match=info.etag)
        return cls.parse(data, where)

    @classmethod
    def parse(cls, data: Buffer, where: str = INDEX_KEY) -> DatasetIndex:
        """Read an index from the bytes of its file.

        Raises:
            FormatError: as in `load`.
        """
        try:
            footer = pq.read_metadata(io.BytesIO(data))
            header = footer.schema.to_arrow_schema()
            _check_file(footer, header, where)
            with pq.ParquetFile(
                io.BytesIO(data), read_dictionary=list(_TEXT), page_checksum_verification=True
            ) as file:
                added = [name for name in ADDED.names if name in header.names]
                table = file.read(columns=[*SCHEMA.names, *added])
            table = table.replace_schema_metadata(header.metadata).combine_chunks()
        except (pa.ArrowException, OSError, ValueError, OverflowError) as err:
            raise FormatError(f"{where}: not a readable Parquet file: {err}") from err
        return cls(table, where)

    def __reduce__(self) -> tuple[object, ...]:
        return (DatasetIndex, (self._table, self._where))

    def __len__(self) -> int:
        return len(self._first_rows) - 1

    def __getitem__(self, i: int) -> SampleEntry:
        """Return a sample; negative numbers count from the end.

        Raises:
            IndexError: no such sample.
            FormatError: its rows in the index are not valid.
        """
        count = len(self)
        if not -count <= i < count:
            raise IndexError(f"sample {i} of {count}")
        i = i % count
        first, stop = int(self._first_rows[i]), int(self._first_rows[i + 1])
        where = f"{self._where}: sample {self._keys[i]!r}"
        entries = [self._array(row, where) for row in range(first, stop)]
        arrays = {entry.name: entry for entry in entries}
        if len(arrays) != len(entries):
            raise FormatError(f"{where}: the same array is there twice")
        return SampleEntry(
            key=self._keys[i],
            attributes=_object(self._text["sample_attributes"].get(first), where),
            arrays=arrays,
            shard=self._text["shard"].require(first),
            zip_start=int(self._numbers["zip_start"][first]),
            zip_stop=int(self._numbers["zip_stop"][first]),
        )

    def __iter__(self) -> Iterator[SampleEntry]:
        return (self[i] for i in range(len(self)))

    @property
    def keys(self) -> Keys:
        """Keys of the samples, in order."""
        return self._keys

    @property
    def array_names(self) -> Sequence[str]:
        """Names of arrays that at least one sample has, in order of appearance."""
        text = self._text["array"]
        codes, first = np.unique(text.codes, return_index=True)
        return [text.values[codes[k]] for k in np.argsort(first)]

    @property
    def shards(self) -> Mapping[str, int]:
        """Size in bytes of every shard, by key, as the writer recorded it."""
        return self._shards

    @property
    def table(self) -> pa.Table:
        """Columns themselves, for statistics over the whole dataset."""
        return self._table

    @property
    def chunks(self) -> ChunkColumns:
        """Structure and places of chunks, for plans of many samples at once."""
        return self._chunks

    def find(self, key: str) -> int:
        """Return the number of the sample `key`.

        Raises:
            ConfigError: no such sample.
        """
        position = self._keys.position(key)
        if position is None:
            raise ConfigError(f"{self._where}: there is no sample {key!r}")
        return position

    def _array(self, row: int, where: str) -> ArrayEntry:
        name = self._text["array"].require(row)
        where = f"{where}: array {name!r}"
        dtype = parse_dtype(self._text["dtype"].require(row), where)
        shape = parse_shape(self._lists["shape"].get(row).tolist(), where, "shape", minimum=0)
        chunk = self._lists["chunk_shape"].get(row).tolist()
        chunk_shape = parse_shape(chunk, where, "chunk_shape", minimum=1)
        if len(chunk_shape) != len(shape):
            raise FormatError(f"{where}: shape {shape} with chunks of {chunk_shape}")
        start, stop = int(self._numbers["start"][row]), int(self._numbers["stop"][row])
        offsets = self._lists["chunk_offsets"].get(row)
        nbytes = self._lists["chunk_nbytes"].get(row)
        chunks = grid_size(shape, chunk_shape)
        if not len(offsets) == len(nbytes) == chunks:
            raise FormatError(
                f"{where}: {len(offsets)} offsets and {len(nbytes)} lengths for {chunks} chunks"
            )
        _check_chunks(offsets, nbytes, start, stop, where)
        meta = ArrayMeta(
            dtype=dtype,
            shape=shape,
            chunk_shape=chunk_shape,
            codecs=_codecs(self._text["codecs"].require(row)),
            fill_value=parse_fill_value(
                _parse_json(self._text["fill_value"].require(row), where), dtype, where
            ),
            dimension_names=_names(self._text["dimension_names"].get(row), len(shape), where),
            units=self._text["units"].get(row),
            attributes=_object(self._text["attributes"].get(row), where),
        )
        shard = self._text["shard"].require(row)
        stats, measured = self._stats(row), self._added.measured(row)
        return ArrayEntry(name, meta, shard, start, stop, offsets, nbytes, stats, measured)

    def _stats(self, row: int) -> Stats | None:
        if self._has_stats[row]:
            numbers = self._numbers
            minimum, maximum, mean, std = (
                float(numbers[name][row]) for name in ("min", "max", "mean", "std")
            )
            return Stats(minimum, maximum, mean, std, int(numbers["nan_count"][row]))
        return None

    def _check_samples(self) -> None:
        """Rows of a sample must agree on its key, shard and archive, and keys must be distinct."""
        per_sample = np.repeat(self._first_rows[:-1], np.diff(self._first_rows))
        for name in ("sample", "shard"):
            codes = self._text[name].codes
            if not np.array_equal(codes, codes[per_sample]):
                raise FormatError(f"{self._where}: rows of a sample disagree on {name}")
        for name in ("zip_start", "zip_stop"):
            column = self._numbers[name]
            if not np.array_equal(column, column[per_sample]):
                raise FormatError(f"{self._where}: rows of a sample disagree on {name}")
        codes = self._text["sample"].codes[self._first_rows[:-1]]
        if len(np.unique(codes)) != len(codes):
            raise FormatError(f"{self._where}: two samples have the same key")

    def _check_names(self) -> None:
        for shard in self._text["shard"].values:
            check_member_name(shard, f"{self._where}: shard")
        for key in self._text["sample"].values:
            check_member_name(key, f"{self._where}: sample")
        for name in self._text["array"].values:
            check_array_name(name, self._where)

    def _check_ranges(self) -> None:
        """Archives must lie in their shard, arrays in their archive."""
        n = self._numbers
        text = self._text["shard"]
        sizes = np.array([self._shards.get(key, 0) for key in text.values], np.uint64)
        ordered = (
            (n["zip_start"] <= n["start"])
            & (n["start"] <= n["stop"])
            & (n["stop"] <= n["zip_stop"])
            & (n["zip_stop"] <= sizes[text.codes])
        )
        if not ordered.all():
            row = int(np.flatnonzero(~ordered)[0])
            raise FormatError(
                f"{self._where}: sample {self._text['sample'].get(row)!r}, array "
                f"{self._text['array'].get(row)!r}: bytes {n['start'][row]} to {n['stop'][row]} "
                f"are not inside the archive or the shard {text.get(row)!r}"
            )


def _check_file(footer: Any, schema: Any, where: str) -> None:
    """Check format, version, columns and declared sizes before anything is decoded."""
    _parse_header(schema.metadata or {}, where)
    if len(set(schema.names)) != len(schema.names):
        raise FormatError(f"{where}: two columns have the same name")
    for field in (*SCHEMA, *ADDED):
        if field.name in ADDED.names and field.name not in schema.names:
            continue
        if field.name not in schema.names:
            raise FormatError(f"{where}: the column {field.name} is missing")
        found = schema.field(field.name).type
        if pa.types.is_dictionary(found):
            found = found.value_type
        if pa.types.is_list(found):
            found = pa.list_(found.value_type)
        if found != field.type:
            raise FormatError(f"{where}: column {field.name} is {found}, expected {field.type}")
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    decoded = sum(group.total_byte_size for group in groups)
    if decoded > _MAX_DECODED_BYTES:
        raise FormatError(f"{where}: it would decode to {decoded} bytes")


def _parse_header(metadata: Mapping[bytes, bytes], where: str) -> dict[str, int]:
    """Check format name and version; return the size of every shard."""
    name = metadata.get(NAME_FIELD, b"").decode("utf-8", "replace")
    if name != FORMAT_NAME:
        raise FormatError(f"{where}: not the index of a packed dataset")
    version = metadata.get(VERSION_FIELD, b"").decode("utf-8", "replace")
    if version != str(FORMAT_VERSION):
        raise FormatError(
            f"{where}: format version {version[:20]!r}, this program reads {FORMAT_VERSION}",
            hint="update dataplane",
        )
    try:
        rows = json.loads(metadata.get(SHARDS_FIELD, b""))
        shards = {str(key): size for key, size in rows}
    except (ValueError, TypeError, RecursionError) as err:
        raise FormatError(f"{where}: the list of shards cannot be read: {err}") from err
    for key, size in shards.items():
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**63:
            raise FormatError(f"{where}: shard {key!r} has the size {size!r:.40}")
    return shards


def _first_rows(sample_index: npt.NDArray[np.int64], where: str) -> npt.NDArray[np.int64]:
    """Return the first row of each sample, and the number of rows at the end."""
    if len(sample_index) == 0:
        return np.zeros(1, np.int64)
    steps = np.diff(sample_index)
    if sample_index[0] != 0 or ((steps != 0) & (steps != 1)).any():
        raise FormatError(f"{where}: sample_index does not count from 0 in steps of 1")
    starts = np.flatnonzero(steps) + 1
    return np.concatenate([[0], starts, [len(sample_index)]]).astype(np.int64)


def _check_chunks(
    offsets: npt.NDArray[np.uint64],
    nbytes: npt.NDArray[np.uint64],
    start: int,
    stop: int,
    where: str,
) -> None:
    missing = (offsets == MISSING_CHUNK) & (nbytes == MISSING_CHUNK)
    # Compared as `nbytes > stop - offset`: the sum could wrap around.
    room = np.uint64(stop) - np.minimum(offsets, np.uint64(stop))
    outside = ~missing & ((offsets < np.uint64(start)) | (nbytes > room))
    if outside.any():
        chunk = int(np.flatnonzero(outside)[0])
        raise FormatError(
            f"{where}: chunk {chunk} at {offsets[chunk]} with {nbytes[chunk]} bytes "
            f"is not inside the array's bytes {start} to {stop}"
        )


def _object(text: str | None, where: str) -> Mapping[str, Any]:
    if text is None:
        return {}
    value = _parse_json(text, where)
    if not isinstance(value, dict):
        raise FormatError(f"{where}: attributes are not an object")
    return value


def _names(text: str | None, ndim: int, where: str) -> tuple[str, ...] | None:
    if text is None:
        return None
    value = _parse_json(text, where)
    if (
        not isinstance(value, list)
        or len(value) != ndim
        or not all(isinstance(name, str) for name in value)
    ):
        raise FormatError(f"{where}: dimension names {value!r:.80} for {ndim} dimensions")
    return tuple(value)


@functools.lru_cache(maxsize=256)
def _codecs(text: str) -> tuple[Mapping[str, Any], ...]:
    """Parse a codec chain; datasets have a handful of them, arrays without end."""
    return parse_codecs(_parse_json(text, "codecs"), "codecs")


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as err:
        raise FormatError(f"{where}: not valid JSON: {err}") from err
