"""The dataset index, `index.parquet`: the samples, and the place of every chunk of every array.

`DatasetIndex.load` reads the file once. What plans need becomes compact columns (`index_load.py`):
some tens of bytes for a sample of a few arrays, so that 10^6 samples cost what an image does. The
rest, attributes and statistics, stays in the file as it is (`index_file.py`) and is decoded when it
is asked for (`index_records.py`). An entry is made anew each time.

The index is not trusted. At load: format name and version, columns and types, declared sizes,
consecutive samples, distinct keys, shard names that stay below the dataset's URL, ranges that nest
(sample in shard, array in sample). Per entry: element type, shapes, codec chain, as many chunks as
the grid has, every chunk inside its array; attributes. A failed check is a `FormatError` that names
the place.

Immutable after load, so thread-safe; pickles as its file.
"""

from __future__ import annotations

import ctypes
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dataplane.errors import BucketNotFound, ConfigError, FormatError, NotFound
from dataplane.shards.absence import why_no_index
from dataplane.shards.index_chunks import ChunkColumns
from dataplane.shards.index_file import IndexFile, open_parquet
from dataplane.shards.index_forms import RowForm, array_forms, samples_by_form
from dataplane.shards.index_keys import Keys
from dataplane.shards.index_load import load_columns
from dataplane.shards.index_records import Records
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
from dataplane.shards.model import MISSING_CHUNK, ArrayEntry, ArrayMeta, SampleEntry
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
_PIECE_BYTES = 32 << 20

ReadPieces = Callable[[ObjectInfo], AbstractContextManager[Iterable[Buffer]]]
"""Function that opens an object, to be read in pieces."""


class DatasetIndex:
    """The samples of a packed dataset, as a sequence of `SampleEntry`.

    Example:
        >>> index = DatasetIndex.load(store)                          # doctest: +SKIP
        >>> index[0].arrays["points"].meta.shape                      # doctest: +SKIP
        (81_920, 3)
    """

    def __init__(self, file: IndexFile, where: str = INDEX_KEY) -> None:
        self._file = file
        self._where = where
        try:
            footer = pq.read_metadata(file.open())
            header = footer.schema.to_arrow_schema()
            self._shards = _check_file(footer, header, where)
            with open_parquet(file, footer) as parquet:
                self._columns = load_columns(parquet, self._shards, where)
        except (pa.ArrowException, OSError, ValueError, OverflowError) as err:
            raise FormatError(f"{where}: not a readable Parquet file: {err}") from err
        finally:
            _release_unused_memory()
        rows = self._columns.rows.range(len(self) - 1)[1] if len(self) else 0
        if rows != sum(footer.row_group(i).num_rows for i in range(footer.num_row_groups)):
            raise FormatError(f"{where}: it has {rows} rows, and not as many as it says")
        self._records = Records(file, footer, where)
        self._chunks = ChunkColumns(self._columns)

    @classmethod
    def load(cls, store: Store, read: ReadPieces | None = None) -> DatasetIndex:
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
        with nullcontext(_pieces(store, info)) if read is None else read(info) as pieces:
            return cls(IndexFile(pieces), where)

    @classmethod
    def parse(cls, data: Buffer, where: str = INDEX_KEY) -> DatasetIndex:
        """Read an index from the bytes of its file.

        Raises:
            FormatError: as in `load`.
        """
        return cls(IndexFile([data]), where)

    def __reduce__(self) -> tuple[object, ...]:
        return (DatasetIndex, (self._file, self._where))

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int) -> SampleEntry:
        """Return a sample; negative numbers count from the end.

        Raises:
            IndexError: no such sample.
            FormatError: its rows in the index are not valid.
        """
        return self._entry(i, is_whole=True)

    def places(self, i: int) -> SampleEntry:
        """Return a sample as plans need it, without attributes and statistics.

        Those of it and of its arrays are left empty; they take longer to read, and are not checked.

        Raises:
            IndexError: no such sample.
            FormatError: its rows in the index are not valid.
        """
        return self._entry(i, is_whole=False)

    def attributes(self, i: int) -> Mapping[str, Any]:
        """Return the attributes of a sample.

        Raises:
            IndexError: no such sample.
            FormatError: they are not valid.
        """
        i = self._checked(i)
        text = self._records.text("sample_attributes", self._columns.rows.range(i)[0])
        return _object(text, f"{self._where}: sample {self.keys[i]!r}")

    def __iter__(self) -> Iterator[SampleEntry]:
        return (self[i] for i in range(len(self)))

    @property
    def keys(self) -> Keys:
        """Keys of the samples, in order."""
        return self._columns.keys

    @property
    def array_names(self) -> Sequence[str]:
        """Names of arrays that at least one sample has, in order of appearance."""
        text = self._columns.text["array"]
        repeated = text.codes.repeated
        codes, first = np.unique(
            text.codes.all() if repeated is None else repeated, return_index=True
        )
        return [text.values[codes[k]] for k in np.argsort(first)]

    @property
    def shards(self) -> Mapping[str, int]:
        """Size in bytes of every shard, by key, as the writer recorded it."""
        return self._shards

    @property
    def table(self) -> pa.Table:
        """All columns of the file, for statistics over the whole dataset; decoded at each use."""
        return self.columns([*SCHEMA.names, *ADDED.names])

    def columns(self, names: Iterable[str]) -> pa.Table:
        """Return columns of the file, decoded anew; those that it lacks are left out.

        Raises:
            FormatError: the file is damaged.
        """
        # Each group numbers its texts for itself; one array has one numbering.
        return pa.concat_tables(self.column_groups(names)).unify_dictionaries().combine_chunks()

    def column_groups(self, names: Iterable[str]) -> Iterator[pa.Table]:
        """Yield columns of the file as `columns`, some ten thousand rows at a time.

        Raises:
            FormatError: the file is damaged.
        """
        return self._records.tables(list(names))

    def archive_range(self, i: int) -> tuple[str, int, int]:
        """Return the shard that holds a sample's archive, its first byte and one past the last.

        Raises:
            IndexError: no such sample.
        """
        i, columns = self._checked(i), self._columns
        start = int(columns.zip_start[i])
        return columns.shard.require(i), start, start + columns.zip_nbytes[i]

    def array_forms(self) -> dict[str, list[RowForm]]:
        """Return the element types and shapes that each array has anywhere, by its name."""
        return array_forms(self._columns)

    def samples_by_form(self, name: str) -> Iterator[tuple[RowForm, npt.NDArray[np.int64]]]:
        """Yield the forms of an array, and int64[n], all samples that have each."""
        return samples_by_form(self._columns, name)

    def sample_counts(self) -> dict[str, int]:
        """Return how many samples have an array, by its name."""
        text = self._columns.text["array"]
        repeated = text.codes.repeated
        codes = text.codes.all() if repeated is None else repeated
        counts = np.bincount(codes) * (len(text.codes) // max(len(codes), 1))
        return dict(zip(text.values, counts.tolist(), strict=False))

    @property
    def chunks(self) -> ChunkColumns:
        """Structure and places of chunks, for plans of many samples at once."""
        return self._chunks

    def find(self, key: str) -> int:
        """Return the number of the sample `key`.

        Raises:
            ConfigError: no such sample.
        """
        position = self.keys.position(key)
        if position is None:
            raise ConfigError(f"{self._where}: there is no sample {key!r}")
        return position

    def _checked(self, i: int) -> int:
        count = len(self)
        if not -count <= i < count:
            raise IndexError(f"sample {i} of {count}")
        return i % count

    def _entry(self, i: int, *, is_whole: bool) -> SampleEntry:
        i = self._checked(i)
        columns, key = self._columns, self.keys[i]
        rows = columns.rows.range(i)
        where = f"{self._where}: sample {key!r}"
        shard = columns.shard.require(i)
        zip_start = int(columns.zip_start[i])
        entries = (self._array(row, i, shard, where, is_whole=is_whole) for row in range(*rows))
        arrays = {entry.name: entry for entry in entries}
        return SampleEntry(
            key=key,
            attributes=self.attributes(i) if is_whole else {},
            arrays=arrays,
            shard=shard,
            zip_start=zip_start,
            zip_stop=zip_start + columns.zip_nbytes[i],
        )

    def _array(
        self, row: int, sample: int, shard: str, where: str, *, is_whole: bool
    ) -> ArrayEntry:
        columns, text = self._columns, self._columns.text
        name = text["array"].require(row)
        where = f"{where}: array {name!r}"
        dtype = parse_dtype(text["dtype"].require(row), where)
        shape = parse_shape(columns.shape.get(row).tolist(), where, "shape", minimum=0)
        chunk = columns.chunk_shape.get(row).tolist()
        chunk_shape = parse_shape(chunk, where, "chunk_shape", minimum=1)
        if len(chunk_shape) != len(shape):
            raise FormatError(f"{where}: shape {shape} with chunks of {chunk_shape}")
        start = int(columns.zip_start[sample]) + columns.start[row]
        stop = start + columns.nbytes[row]
        offsets, nbytes = columns.chunks.of_row(row, sample)
        chunks = grid_size(shape, chunk_shape)
        if not len(offsets) == len(nbytes) == chunks:
            raise FormatError(
                f"{where}: {len(offsets)} offsets and {len(nbytes)} lengths for {chunks} chunks"
            )
        _check_chunks(offsets, nbytes, start, stop, where)
        records = self._records
        meta = ArrayMeta(
            dtype=dtype,
            shape=shape,
            chunk_shape=chunk_shape,
            codecs=_codecs(text["codecs"].require(row)),
            fill_value=parse_fill_value(
                _parse_json(text["fill_value"].require(row), where), dtype, where
            ),
            dimension_names=_names(text["dimension_names"].get(row), len(shape), where),
            units=text["units"].get(row),
            attributes=_object(records.text("attributes", row), where) if is_whole else {},
        )
        if not is_whole:
            return ArrayEntry(name, meta, shard, start, stop, offsets, nbytes)
        stats, measured = records.measurements(row)
        return ArrayEntry(name, meta, shard, start, stop, offsets, nbytes, stats, measured)


def _release_unused_memory() -> None:
    """Give memory that was used for decoding back to the system.

    What NumPy and Arrow free in pieces stays with the C library otherwise, for ever in a process
    that needs no such amounts again: as much as the index itself.
    """
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    if trim is not None:
        trim(0)


def _pieces(store: Store, info: ObjectInfo) -> Iterator[Buffer]:
    """Yield an object in pieces, all of one version."""
    for start in range(0, info.size_bytes, _PIECE_BYTES):
        stop = min(start + _PIECE_BYTES, info.size_bytes)
        yield store.get_range(info.key, start, stop, if_match=info.etag)


def _check_file(footer: Any, schema: Any, where: str) -> dict[str, int]:
    """Check format, version, columns and declared sizes before anything is decoded.

    Returns:
        Size of every shard, by key.
    """
    shards = _parse_header(schema.metadata or {}, where)
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
    return shards


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
