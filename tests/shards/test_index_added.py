"""Columns that came after the first release: datasets may lack them, and readers do without."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from dataplane.cli.info import info
from dataplane.errors import FormatError
from dataplane.shards import INDEX_KEY, DatasetIndex, SourceArray, SourceSample
from dataplane.shards.index_schema import ADDED, SCHEMA
from dataplane.shards.model import Measured
from dataplane.shards.summary import summarise
from dataplane.stores import Store

_FIRST_RELEASE = [
    *("sample", "sample_index", "sample_attributes", "array", "shard", "zip_start", "zip_stop"),
    *("start", "stop", "dtype", "shape", "chunk_shape", "codecs", "fill_value"),
    *("dimension_names", "units", "attributes", "min", "max", "mean", "std", "nan_count"),
    *("chunk_offsets", "chunk_nbytes"),
]


@pytest.fixture
def data(pack: Callable[..., Store]) -> bytes:
    vectors = np.arange(30.0).reshape(10, 3)
    vectors[4, 1] = np.nan
    store = pack(
        SourceSample("a", {"u": SourceArray(vectors), "p": SourceArray(np.ones(4))}),
        SourceSample("b", {"u": SourceArray(vectors[:5] * 2)}),
        round_bits=9,
    )
    info = store.head(INDEX_KEY)
    return bytes(store.get_range(INDEX_KEY, 0, info.size_bytes))


def edited(data: bytes, edit: Callable[[pa.Table], pa.Table]) -> bytes:
    table = pq.read_table(io.BytesIO(data))
    sink = io.BytesIO()
    pq.write_table(edit(table).replace_schema_metadata(table.schema.metadata), sink)
    return sink.getvalue()


def test_what_older_readers_require_is_there_and_first(data: bytes) -> None:
    schema = pq.read_schema(io.BytesIO(data))
    assert SCHEMA.names == _FIRST_RELEASE
    assert schema.names == [*_FIRST_RELEASE, *ADDED.names]
    assert schema.field("nan_count").type == pa.uint64()
    assert {schema.field(name).type for name in ("min", "max", "mean", "std")} == {pa.float64()}


def test_a_dataset_of_the_first_release_loads_and_knows_less(data: bytes) -> None:
    index = DatasetIndex.parse(edited(data, lambda table: table.select(_FIRST_RELEASE)))
    assert index[0].arrays["u"].measured == Measured()
    assert index[0].arrays["u"].stats is not None
    u, _ = summarise(index)
    assert (u.nan_count, u.nonfinite_count, u.components, u.max_error) == (2, None, (), None)
    assert u.mean is not None


def test_info_says_of_the_first_release_that_it_rounded(data: bytes, tmp_path: Path) -> None:
    shown = []
    for content in (edited(data, lambda table: table.select(_FIRST_RELEASE)), data):
        (tmp_path / INDEX_KEY).write_bytes(content)
        shown.append(CliRunner().invoke(info, [str(tmp_path)], catch_exceptions=False).output)
    assert "lossy: packed with round_bits 9; errors were not recorded" in shown[0]
    assert "not recorded" not in shown[1]
    assert "lossy: u: 9 mantissa bits kept" in shown[1]


@pytest.mark.parametrize("name", ADDED.names)
def test_any_of_the_columns_may_be_absent_or_empty(data: bytes, name: str) -> None:
    whole = DatasetIndex.parse(data)[0].arrays["u"].measured
    assert None not in (whole.nonfinite_count, whole.round_bits, whole.max_error)
    assert len(whole.components) == 3
    without = edited(data, lambda table: table.drop_columns([name]))

    def emptied(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name)
        return table.set_column(
            place, ADDED.field(name), pa.nulls(len(table), ADDED.field(name).type)
        )

    for changed in (without, edited(data, emptied)):
        index = DatasetIndex.parse(changed)
        found = index[0].arrays["u"].measured
        assert getattr(found, name) in (None, ())
        others = set(ADDED.names) - {name}
        assert all(getattr(found, it) == getattr(whole, it) for it in others)
        summarise(index)


@pytest.mark.parametrize("name", ADDED.names)
def test_a_column_of_another_type_is_refused(data: bytes, name: str) -> None:
    def retyped(table: pa.Table) -> pa.Table:
        column = pa.array(["x"] * len(table))
        return table.set_column(table.schema.get_field_index(name), name, column)

    with pytest.raises(FormatError, match=f"column {name} is string"):
        DatasetIndex.parse(edited(data, retyped))


def test_components_that_differ_between_samples_are_not_added_up(
    pack: Callable[..., Store],
) -> None:
    store = pack(*(
        SourceSample(f"s{n}", {"u": SourceArray(np.ones((40, n)))}) for n in (2, 3)
    ))  # fmt: skip
    (u,) = summarise(DatasetIndex.load(store))
    assert u.components == ()
    assert u.mean == 1.0
