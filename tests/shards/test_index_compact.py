"""What an index keeps in compact columns is what its file says, whatever repeats itself or not."""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.errors import FormatError
from dataplane.shards import INDEX_KEY, DatasetIndex, SampleEntry, SourceArray, SourceSample
from dataplane.shards import index_load as loading
from dataplane.shards.index_compact import GrowingInts, narrow
from dataplane.shards.index_file import IndexFile
from dataplane.stores import Store

BASE = 5 << 32
"""Where a shard is moved to, to have offsets that need more than 32 bits."""


def uniform(number: int) -> dict[str, np.ndarray]:
    return {"x": np.full((4, 3), number + 1, "f4"), "y": np.full(7, number + 1, "i8")}


def varied(number: int) -> dict[str, np.ndarray]:
    arrays = uniform(number)
    if number % 3:
        arrays["z"] = np.ones((number, 2, 1), "f4")
    if number % 4 == 2:
        arrays = dict(reversed(arrays.items()))
    if number > 8:
        del arrays["x"]
    arrays["zero"] = np.zeros(5000, "f8")  # a chunk that is not stored
    return arrays


def late(number: int) -> dict[str, np.ndarray]:
    """All alike, but for the last."""
    return uniform(number) if number < 11 else {"x": np.ones((5, 3), "f4"), "y": np.ones(7, "i8")}


def one_array(number: int) -> dict[str, np.ndarray]:
    return {"x": np.full(3, number + 1, "f4")}


KINDS = [uniform, varied, late, one_array]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def data(request: pytest.FixtureRequest, pack: Callable[..., Store]) -> bytes:
    def sample(number: int) -> SourceSample:
        made = request.param(number)
        arrays = {name: SourceArray(values, None, "m") for name, values in made.items()}
        return SourceSample(f"s{number}", arrays, {"number": number})

    store = pack(*map(sample, range(12)))
    return bytes(store.get_range(INDEX_KEY, 0, store.head(INDEX_KEY).size_bytes))


def edited(data: bytes, **changes: Callable[[list[Any]], list[Any]]) -> bytes:
    """Change columns of an index, and the sizes of its shards if `shards` is among the changes."""
    table = pq.read_table(io.BytesIO(data))
    metadata = dict(table.schema.metadata)
    metadata[b"dataplane.shards"] = b'[["shard-000000.tar", 9000000000000]]'
    for name, change in changes.items():
        place = table.schema.get_field_index(name)
        field = table.schema.field(name)
        values = change(table.column(name).to_pylist())
        table = table.set_column(place, field, pa.array(values, field.type))
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), sink, row_group_size=9)
    return sink.getvalue()


def shown(entry: SampleEntry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "places": (entry.shard, entry.zip_start, entry.zip_stop),
        "attributes": dict(entry.attributes),
        "arrays": [
            (
                *(array.name, array.meta.dtype.name, array.meta.shape, array.meta.chunk_shape),
                *(array.meta.units, array.start, array.stop, array.shard),
                *(array.chunk_offsets.tolist(), array.chunk_nbytes.tolist()),
            )
            for array in entry.arrays.values()
        ],
    }


def said(data: bytes) -> list[dict[str, Any]]:
    """What the rows of the file say, row by row."""
    samples: list[dict[str, Any]] = []
    for row in pq.read_table(io.BytesIO(data)).to_pylist():
        if row["sample_index"] == len(samples):
            samples.append({
                "key": row["sample"],
                "places": (row["shard"], row["zip_start"], row["zip_stop"]),
                "attributes": {"number": row["sample_index"]},
                "arrays": [],
            })  # fmt: skip
        samples[-1]["arrays"].append((
            *(row["array"], row["dtype"], tuple(row["shape"]), tuple(row["chunk_shape"])),
            *(row["units"], row["start"], row["stop"], row["shard"]),
            *(row["chunk_offsets"], row["chunk_nbytes"]),
        ))  # fmt: skip
    return samples


@pytest.mark.parametrize("batch_rows", [1, 2, 5, 1000])
@pytest.mark.parametrize("is_far", [False, True])
def test_entries_are_what_the_rows_say(
    data: bytes, batch_rows: int, is_far: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_BATCH_ROWS", batch_rows)
    if is_far:
        moved = ("zip_start", "zip_stop", "start", "stop")

        def move(values: list[Any]) -> list[Any]:
            return [value + BASE for value in values]

        def move_chunks(lists: list[Any]) -> list[Any]:
            return [[n + BASE if n < 2**64 - 1 else n for n in offsets] for offsets in lists]

        data = edited(data, chunk_offsets=move_chunks, **dict.fromkeys(moved, move))
    index = DatasetIndex.parse(data)
    expected = said(data)
    for made in (index, pickle.loads(pickle.dumps(index))):
        assert [shown(entry) for entry in made] == expected
        assert list(made.keys) == [sample["key"] for sample in expected]
        assert made.keys.take(np.array([3, 1])) == ["s3", "s1"]
        assert [made.find(f"s{number}") for number in range(12)] == list(range(12))
        assert [made.archive_range(i) for i in range(12)] == [one["places"] for one in expected]
    forms = {(array[0], array[1], array[2]) for sample in expected for array in sample["arrays"]}
    found = index.array_forms()
    assert {(name, f.dtype, f.shape) for name, of in found.items() for f in of} == forms
    for name, of in found.items():
        for form in of:
            has = [
                (name, form.dtype, form.shape) in [array[:3] for array in sample["arrays"]]
                for sample in expected
            ]
            assert has.index(True) == form.sample
    names = [array[0] for sample in expected for array in sample["arrays"]]
    assert list(index.array_names) == list(dict.fromkeys(names))
    assert index.sample_counts() == {name: names.count(name) for name in names}


def test_an_archive_of_more_than_4_gib_and_offsets_outside_of_one_are_kept_exactly(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_BATCH_ROWS", 4)
    rows = len(pq.read_table(io.BytesIO(data)))
    last = rows - 1

    def stretch(values: list[Any]) -> list[Any]:
        return [*values[:last], values[last] + (7 << 32)]

    def far(lists: list[Any]) -> list[Any]:
        return [*lists[:last], [n + (6 << 32) if n < 2**64 - 1 else n for n in lists[last]]]

    index = DatasetIndex.parse(edited(data, stop=stretch, zip_stop=_last_sample(data, 7 << 32)))
    assert [e["arrays"] for e in map(shown, index)] == [
        e["arrays"] for e in said(edited(data, stop=stretch))
    ]
    changed = edited(data, stop=stretch, zip_stop=_last_sample(data, 7 << 32), chunk_offsets=far)
    assert [shown(e)["arrays"] for e in DatasetIndex.parse(changed)] == [
        e["arrays"] for e in said(changed)
    ]
    outside = edited(data, chunk_offsets=lambda lists: [[3, *lists[0][1:]], *lists[1:]])
    index = DatasetIndex.parse(outside)
    with pytest.raises(FormatError, match="chunk 0 at 3 with"):
        index[0]
    assert [shown(index[i]) for i in range(1, 12)] == said(outside)[1:]


def _last_sample(data: bytes, added: int) -> Callable[[list[Any]], list[Any]]:
    numbers = pq.read_table(io.BytesIO(data)).column("sample_index").to_pylist()
    return lambda values: [v + added * (n == 11) for v, n in zip(values, numbers, strict=True)]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("b", "b", "same key"),
        ("a//b", "c", "empty part"),
        ("/a", "c", "empty part"),
        ("a/", "c", "empty part"),
        ("", "c", "is empty"),
        ("c", "a/../b", "the part"),
        ("c", "x" * 300, "longer"),
        ("c", "a\nb", "control"),
        ("z/y", "a", None),
        ("é/x.y z", "a", None),
        ("x" * 241, "a/b", None),
    ],
)
def test_keys_are_checked_and_found_in_any_order(
    pack: Callable[..., Store], first: str, second: str, message: str | None
) -> None:
    store = pack(*(SourceSample(key, {"x": SourceArray(np.ones(3))}) for key in "pq"))
    data = bytes(store.get_range(INDEX_KEY, 0, store.head(INDEX_KEY).size_bytes))
    data = edited(data, sample=lambda _: [first, second])
    if message:
        with pytest.raises(FormatError, match=message):
            DatasetIndex.parse(data)
        return
    index = DatasetIndex.parse(data)
    assert [index.keys[0], index.keys[-1]] == [first, second]
    assert (index.find(first), index.find(second)) == (0, 1)
    assert index.keys.position("nothing") is None


@given(
    pattern=st.lists(st.integers(0, 2), min_size=1, max_size=4),
    turns=st.integers(0, 6),
    rest=st.lists(st.integers(0, 300), max_size=4),
    cuts=st.lists(st.integers(0, 28), max_size=4),
    periods=st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
def test_a_column_is_its_parts_one_after_another(
    pattern: list[int], turns: int, rest: list[int], cuts: list[int], periods: tuple[int, int]
) -> None:
    values = np.array(pattern * turns + rest, np.uint64)
    growing = GrowingInts()
    for part in np.split(values, sorted(cuts)):
        growing.add(narrow(part), periods[0])
    column = growing.finish(periods[1])
    assert len(column) == len(values)
    assert column.all().tolist() == values.tolist()
    places = np.arange(len(values))[::-1]
    assert column.take(places).tolist() == values[::-1].tolist()
    assert [column[i] for i in range(len(values))] == values.tolist()
    if column.repeated is not None:
        assert len(column.repeated) == periods[1]


def test_a_row_group_of_another_length_than_the_file_says_is_refused(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = DatasetIndex.parse(data)
    read = pq.ParquetFile.read_row_groups

    def shorter(file: pq.ParquetFile, *args: Any, **kwargs: Any) -> pa.Table:
        return read(file, *args, **kwargs).slice(1)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", shorter)
    with pytest.raises(FormatError, match="rows where"):
        index.attributes(3)


def test_the_file_is_read_by_the_caller_alone(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of Arrow that Python has ended is waited for when the process ends: for ever."""
    threads = set()
    read = IndexFile.read

    def noted(file: IndexFile, start: int, stop: int) -> bytes:
        threads.add(threading.get_ident())
        return read(file, start, stop)

    monkeypatch.setattr(IndexFile, "read", noted)
    index = DatasetIndex.parse(data)
    assert [index.attributes(i) for i in range(len(index))] == [{"number": n} for n in range(12)]
    assert all(entry.arrays for entry in index)
    assert threads == {threading.get_ident()}
