"""The index: what was written is found, quickly, and what cannot be is refused."""

from __future__ import annotations

import io
import json
import pickle
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.errors import ConfigError, FormatError
from dataplane.shards import (
    ArrayEntry,
    ArrayMeta,
    DatasetIndex,
    SampleEntry,
    SourceSample,
    Stats,
)
from dataplane.shards.index_schema import SCHEMA, IndexBuilder
from dataplane.shards.zarr_metadata import inner_codecs
from dataplane.stores import Store

F4 = np.dtype("<f4")


def entry(key: str, *names: str, start: int = 4096) -> SampleEntry:
    """A sample whose arrays each have two chunks of 100 bytes."""
    arrays = {}
    for i, name in enumerate(names):
        at = start + 1000 + i * 1000
        arrays[name] = ArrayEntry(
            name,
            ArrayMeta(F4, (10, 3), (5, 3), inner_codecs(F4, "lz4", 5), 0.0, ("point", "axis"), "m"),
            "shard-000000.tar",
            at,
            at + 300,
            np.array([at, at + 100], np.uint64),
            np.array([100, 100], np.uint64),
            Stats(-1.0, 1.0, 0.5, 0.25, 3),
        )
    return SampleEntry(key, {"n": 1}, arrays, "shard-000000.tar", start, start + 100_000)


def index_bytes(*entries: SampleEntry) -> bytes:
    builder = IndexBuilder()
    for each in entries:
        builder.add(each)
    return builder.finish([("shard-000000.tar", 200_000)])


def altered(data: bytes, **columns: Any) -> bytes:
    """Replace the first row's values of some columns."""
    table = pq.read_table(io.BytesIO(data))
    for name, value in columns.items():
        values = table.column(name).to_pylist()
        values[0] = value
        place = table.schema.get_field_index(name)
        field = SCHEMA.field(name).with_nullable(True)
        table = table.set_column(place, field, pa.array(values, field.type))
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def with_metadata(data: bytes, **metadata: str | None) -> bytes:
    table = pq.read_table(io.BytesIO(data))
    merged = dict(table.schema.metadata)
    for name, value in metadata.items():
        key = f"dataplane.{name}".encode()
        merged.pop(key, None) if value is None else merged.update({key: value.encode()})
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(merged), sink)
    return sink.getvalue()


GOOD = index_bytes(entry("a", "x", "y"), entry("b", "x"))


def read_all(data: bytes) -> list[SampleEntry]:
    return list(DatasetIndex.parse(data))


def test_entries_say_what_was_written(
    samples: list[SourceSample], pack: Callable[..., Store]
) -> None:
    index = DatasetIndex.load(pack(*samples))
    assert len(index) == 3
    assert list(index.keys) == [sample.key for sample in samples]
    assert index.keys[1:] == [sample.key for sample in samples[1:]]
    assert list(index.array_names) == list(samples[0].arrays)
    for i, sample in enumerate(samples):
        found = index[i]
        assert found.key == sample.key
        assert index.find(sample.key) == i
        assert found.attributes == {"mach": 0.5, "name": "Flügel", "bad": "NaN"}
        for name, array in sample.arrays.items():
            meta = found.arrays[name].meta
            assert meta.shape == array.values.shape
            assert meta.dtype == array.values.dtype.newbyteorder("<")
            assert meta.units == array.units
            assert meta.attributes == array.attributes
            assert meta.dimension_names == array.dimension_names
            assert len(found.arrays[name].chunk_offsets) == np.prod(meta.grid_shape, dtype=int)


def test_everything_of_an_entry_survives() -> None:
    (a, b) = read_all(GOOD)
    expected = entry("a", "x", "y")
    assert (a.key, a.shard, a.zip_start, a.zip_stop, a.attributes) == (
        *("a", expected.shard, expected.zip_start, expected.zip_stop),
        {"n": 1},
    )
    assert list(a.arrays) == ["x", "y"]
    assert list(b.arrays) == ["x"]
    for name, array in expected.arrays.items():
        got = a.arrays[name]
        assert (got.meta, got.start, got.stop, got.stats) == (
            *(array.meta, array.start, array.stop),
            array.stats,
        )
        np.testing.assert_array_equal(got.chunk_offsets, array.chunk_offsets)
        assert got.chunk_offsets.dtype == np.uint64


def test_negative_numbers_count_from_the_end_and_others_are_refused() -> None:
    index = DatasetIndex.parse(GOOD)
    assert index[-1].key == "b"
    for i in (2, -3):
        with pytest.raises(IndexError):
            index[i]
    with pytest.raises(ConfigError, match="no sample 'z'"):
        index.find("z")


def test_an_index_pickles() -> None:
    index = pickle.loads(pickle.dumps(DatasetIndex.parse(GOOD)))
    assert [e.key for e in index] == ["a", "b"]


def test_a_folder_without_an_index_is_not_a_dataset(store: Store) -> None:
    store.put("shard-000000.tar", b"")
    with pytest.raises(FormatError, match=r"not a packed dataset: it has no index\.parquet"):
        DatasetIndex.load(store)


def test_an_empty_index_is_an_empty_dataset() -> None:
    assert len(DatasetIndex.parse(index_bytes())) == 0
    assert list(DatasetIndex.parse(index_bytes()).keys) == []


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": "other"}, "not the index"),
        ({"format": None}, "not the index"),
        ({"version": "2"}, "version '2', this program reads 1"),
        ({"version": None}, "version"),
        ({"shards": "nonsense"}, "list of shards"),
        ({"shards": "[[1]]"}, "list of shards"),
        ({"shards": '[["shard-000000.tar", -1]]'}, "size"),
        ({"shards": '[["shard-000000.tar", 5000]]'}, "are not inside"),
        ({"shards": "[]"}, "are not inside"),
    ],
)
def test_foreign_formats_and_versions_are_refused(
    metadata: dict[str, str | None], message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        DatasetIndex.parse(with_metadata(GOOD, **metadata))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sample": None}, "no nulls"),
        ({"sample": "b"}, "disagree on sample|same key"),
        ({"sample": "../b"}, "refused"),
        ({"sample_index": 7}, "sample_index"),
        ({"sample_attributes": "[]"}, "attributes are not"),
        ({"sample_attributes": "{"}, "not valid JSON"),
        ({"array": "a/../b"}, "cannot be used"),
        ({"shard": "../../etc/passwd"}, "refused"),
        ({"shard": "/etc/passwd"}, "refused"),
        ({"shard": "other.tar"}, "disagree on shard"),
        ({"zip_start": 0}, "disagree on zip_start"),
        ({"start": 0}, "are not inside"),
        ({"start": 2**64 - 1}, "are not inside"),
        ({"stop": 2**64 - 1}, "are not inside"),
        ({"dtype": "object"}, "element type"),
        ({"dtype": ">f4"}, "element type"),
        ({"dtype": "str"}, "element type"),
        ({"shape": [10]}, "with chunks of"),
        ({"shape": [2**63, 2**63]}, "shape"),
        ({"shape": [2**40, 2**40]}, "too large"),
        ({"shape": [11, 3]}, "2 offsets and 2 lengths for 3 chunks"),
        ({"shape": None}, "no nulls"),
        ({"chunk_shape": [0, 3]}, "chunk_shape"),
        ({"chunk_shape": [1, 1]}, "for 30 chunks"),
        ({"codecs": "{}"}, "codecs"),
        ({"codecs": "[1]"}, "codec"),
        ({"fill_value": '"x"'}, "fill_value"),
        ({"fill_value": ""}, "JSON"),
        ({"dimension_names": '["a"]'}, "dimension names"),
        ({"attributes": "3"}, "attributes"),
        ({"chunk_offsets": [5096]}, "1 offsets"),
        ({"chunk_offsets": [0, 5196]}, "chunk 0 at 0"),
        ({"chunk_offsets": [5096, 2**64 - 50]}, "chunk 1 at"),
        ({"chunk_nbytes": [100, 2**64 - 1]}, "chunk 1 at"),
        ({"chunk_nbytes": [301, 100]}, "chunk 0 at"),
        ({"chunk_nbytes": [100, None]}, "no nulls"),
    ],
)
def test_rows_that_cannot_be_are_refused(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_all(altered(GOOD, **columns))


@pytest.mark.parametrize(
    "entries",
    [
        [entry("a", "x", "y"), entry("b", "x", "y")],
        [entry("a", "x", "y"), entry("b", "x")],
        [entry("a", "x", "y"), entry("b", "z"), entry("c", "x")],
    ],
    ids=["alike", "fewer", "others"],
)
def test_a_sample_that_has_an_array_twice_is_refused(entries: list[SampleEntry]) -> None:
    data = index_bytes(*entries)
    assert len(read_all(data)) == len(entries)
    with pytest.raises(FormatError, match="sample 'a' has array 'y' twice"):
        read_all(altered(data, array="y"))
    table = pq.read_table(io.BytesIO(data))
    place = table.schema.get_field_index("array")
    same = pa.array(["x"] * table.num_rows, pa.string())
    table = table.set_column(place, SCHEMA.field("array"), same)
    sink = io.BytesIO()
    pq.write_table(table, sink)
    with pytest.raises(FormatError, match="sample 'a' has array 'x' twice"):
        read_all(sink.getvalue())


def test_missing_and_mistyped_columns_are_named() -> None:
    table = pq.read_table(io.BytesIO(GOOD))
    for changed, message in (
        (table.drop_columns(["stop"]), "column stop is missing"),
        (
            table.set_column(0, "sample", pa.array(range(len(table)), pa.int64())),
            "column sample is int64",
        ),
    ):
        sink = io.BytesIO()
        pq.write_table(changed, sink)
        with pytest.raises(FormatError, match=message):
            DatasetIndex.parse(sink.getvalue())


def test_every_prefix_is_refused() -> None:
    for length in range(0, len(GOOD), 11):
        with pytest.raises(FormatError):
            DatasetIndex.parse(GOOD[:length])


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, len(GOOD) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_never_yields_ranges_outside_the_shard(at: int, bit: int) -> None:
    data = bytearray(GOOD)
    data[at] ^= 1 << bit
    try:
        entries = read_all(bytes(data))
    except FormatError:
        return
    for each in entries:
        for array in each.arrays.values():
            assert each.zip_start <= array.start <= array.stop <= each.zip_stop <= 200_000


def test_a_hundred_thousand_samples_load_in_seconds_and_cost_no_objects() -> None:
    samples, arrays = 100_000, 10
    rows = samples * arrays
    first = pq.read_table(io.BytesIO(GOOD)).slice(0, 1)
    columns: dict[str, Any] = {}
    for field in SCHEMA:
        value = first.column(field.name).combine_chunks()
        columns[field.name] = (
            pa.DictionaryArray.from_arrays(
                pa.array(np.zeros(rows, np.int32)), value.cast(field.type)
            ).cast(field.type)
            if not pa.types.is_list(field.type)
            else pa.ListArray.from_arrays(
                pa.array(np.arange(rows + 1, dtype=np.int32) * 2),
                pa.array(np.tile(value.values.to_numpy(), rows)),
            )
        )
    number = np.repeat(np.arange(samples), arrays)
    columns["sample_index"] = pa.array(number)
    columns["sample"] = pa.array(np.char.add("case-", number.astype(str)))
    columns["array"] = pa.array(np.tile([f"fields/{i}" for i in range(arrays)], samples))
    table = pa.table(columns, schema=SCHEMA).replace_schema_metadata(
        pq.read_schema(io.BytesIO(GOOD)).metadata
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")

    started = time.perf_counter()
    index = DatasetIndex.parse(sink.getvalue())
    loaded_s = time.perf_counter() - started
    started = time.perf_counter()
    for i in range(0, samples, 100):
        assert len(index[i].arrays) == arrays
    per_sample_s = (time.perf_counter() - started) / (samples / 100)
    assert len(index) == samples
    assert index.find("case-99999") == 99_999
    # Generous: a busy machine must not fail this; a Python object per array would.
    assert loaded_s < 10, f"{loaded_s:.1f} s"
    assert per_sample_s < 0.01, f"{per_sample_s * 1e3:.2f} ms"


def test_text_columns_hold_json_for_other_programs() -> None:
    row = pq.read_table(io.BytesIO(GOOD)).to_pylist()[0]
    assert json.loads(row["dimension_names"]) == ["point", "axis"]
    assert json.loads(row["codecs"])[1]["configuration"]["cname"] == "lz4"
    assert json.loads(row["sample_attributes"]) == {"n": 1}
