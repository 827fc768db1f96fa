"""The columns of `index.parquet`, and the builder that fills them. Reading is in index.py.

One row per (sample, array), samples in order, the rows of a sample together. Only plain Parquet
types, so that DuckDB, pandas and Polars can query it. Text that repeats is dictionary-encoded by
Parquet itself. A sample's attributes stand on its first row. Format name, version and the shards
with their sizes are in the schema's metadata. Byte layout and meaning: docs/dataset-format.md.

`IndexBuilder` turns rows into Arrow batches as they come, so that a large pack holds arrays and not
Python objects. Not thread-safe; its owner serialises.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataplane.shards.model import Measured, SampleEntry
from dataplane.shards.zarr_metadata import compact_json, json_fill_value

__all__ = [
    "ADDED",
    "FORMAT_NAME",
    "FORMAT_VERSION",
    "INDEX_KEY",
    "SCHEMA",
    "SHARD_NAME",
    "TEXT_COLUMNS",
    "IndexBuilder",
    "write_options",
]

INDEX_KEY = "index.parquet"
SHARD_NAME = re.compile(r"shard-\d{6,}\.tar")
FORMAT_NAME = "dataplane-dataset"
FORMAT_VERSION = 1
NAME_FIELD, VERSION_FIELD, SHARDS_FIELD = (
    b"dataplane.format",
    b"dataplane.version",
    b"dataplane.shards",
)
_BATCH_ROWS = 4096
_ROW_GROUP_ROWS = 65_536

_FIELDS: list[Any] = [
    pa.field("sample", pa.string(), nullable=False),
    pa.field("sample_index", pa.int64(), nullable=False),
    pa.field("sample_attributes", pa.string()),
    pa.field("array", pa.string(), nullable=False),
    pa.field("shard", pa.string(), nullable=False),
    pa.field("zip_start", pa.uint64(), nullable=False),
    pa.field("zip_stop", pa.uint64(), nullable=False),
    pa.field("start", pa.uint64(), nullable=False),
    pa.field("stop", pa.uint64(), nullable=False),
    pa.field("dtype", pa.string(), nullable=False),
    pa.field("shape", pa.list_(pa.uint64()), nullable=False),
    pa.field("chunk_shape", pa.list_(pa.uint64()), nullable=False),
    pa.field("codecs", pa.string(), nullable=False),
    pa.field("fill_value", pa.string(), nullable=False),
    pa.field("dimension_names", pa.string()),
    pa.field("units", pa.string()),
    pa.field("attributes", pa.string()),
    pa.field("min", pa.float64()),
    pa.field("max", pa.float64()),
    pa.field("mean", pa.float64()),
    pa.field("std", pa.float64()),
    pa.field("nan_count", pa.uint64()),
    pa.field("chunk_offsets", pa.list_(pa.uint64()), nullable=False),
    pa.field("chunk_nbytes", pa.list_(pa.uint64()), nullable=False),
]
SCHEMA = pa.schema(_FIELDS)
"""The columns that every index has. Text columns `codecs`, `fill_value`, `dimension_names`,
`attributes` hold JSON."""
TEXT_COLUMNS = [field.name for field in _FIELDS if field.type == pa.string()]
"""The columns that hold texts, which are stored, and read, as dictionaries."""
_COMPONENT = pa.struct([
    pa.field("min", pa.float64()),
    pa.field("max", pa.float64()),
    pa.field("mean", pa.float64()),
    pa.field("std", pa.float64()),
    pa.field("nan_count", pa.uint64()),
])  # fmt: skip
_ADDED_FIELDS: list[Any] = [
    pa.field("nonfinite_count", pa.uint64()),
    pa.field("components", pa.list_(_COMPONENT)),
    pa.field("round_bits", pa.uint8()),
    pa.field("max_error", pa.float64()),
]
ADDED = pa.schema(_ADDED_FIELDS)
"""Columns that came later: older readers ignore them, and older datasets lack them."""
_WRITTEN = pa.schema([*_FIELDS, *_ADDED_FIELDS])


class IndexBuilder:
    """A builder that collects the rows of samples and writes them as one Parquet file."""

    def __init__(self) -> None:
        self._columns = _empty_columns()
        self._batches: list[pa.RecordBatch] = []
        self._samples = 0

    def add(self, entry: SampleEntry) -> None:
        """Append a sample."""
        attributes: str | None = compact_json(entry.attributes)
        columns = self._columns
        for array in entry.arrays.values():
            meta, stats = array.meta, array.stats
            names = None if meta.dimension_names is None else compact_json(meta.dimension_names)
            row = (
                *(entry.key, self._samples, attributes, array.name, entry.shard),
                *(entry.zip_start, entry.zip_stop, array.start, array.stop),
                *(meta.dtype.name, meta.shape, meta.chunk_shape, compact_json(meta.codecs)),
                *(compact_json(json_fill_value(meta.fill_value, meta.dtype)), names, meta.units),
                compact_json(meta.attributes) if meta.attributes else None,
                *((None,) * 5 if stats is None else (stats.minimum, stats.maximum)),
                *(() if stats is None else (stats.mean, stats.std, stats.nan_count)),
                *(array.chunk_offsets, array.chunk_nbytes),
                *_added(array.measured),
            )
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
            attributes = None
        self._samples += 1
        if len(columns["sample"]) >= _BATCH_ROWS:
            self._flush()

    def finish(self, shards: Sequence[tuple[str, int]]) -> bytes:
        """Return the Parquet file.

        Args:
            shards: key and size of every shard.
        """
        self._flush()
        metadata = {
            NAME_FIELD: FORMAT_NAME.encode(),
            VERSION_FIELD: str(FORMAT_VERSION).encode(),
            SHARDS_FIELD: compact_json([[key, size] for key, size in shards]).encode(),
        }
        table = pa.Table.from_batches(self._batches, _WRITTEN).replace_schema_metadata(metadata)
        sink = io.BytesIO()
        pq.write_table(table, sink, row_group_size=_ROW_GROUP_ROWS, **write_options())
        return sink.getvalue()

    def _flush(self) -> None:
        if self._columns["sample"]:
            arrays = [pa.array(self._columns[field.name], field.type) for field in _WRITTEN]
            self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=_WRITTEN))
            self._columns = _empty_columns()


def write_options() -> dict[str, Any]:
    """Return how Parquet's writer encodes an index, as its arguments."""
    return {
        "compression": "zstd",
        "write_page_checksum": True,
        "use_dictionary": TEXT_COLUMNS,
        # Offsets of a shard rise steadily: deltas take a quarter of the space of the numbers.
        "column_encoding": {
            "chunk_offsets.list.element": "DELTA_BINARY_PACKED",
            "chunk_nbytes.list.element": "DELTA_BINARY_PACKED",
        },
    }


def _empty_columns() -> dict[str, list[Any]]:
    return {field.name: [] for field in _WRITTEN}


def _added(measured: Measured) -> tuple[Any, ...]:
    """Return the values of the columns of `ADDED`."""
    components = [
        {"min": one.minimum, "max": one.maximum, "mean": one.mean, "std": one.std,
         "nan_count": one.nan_count}
        for one in measured.components
    ]  # fmt: skip
    rounded = (measured.round_bits, measured.max_error)
    return (measured.nonfinite_count, components or None, *rounded)
