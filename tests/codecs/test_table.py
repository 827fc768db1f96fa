"""Chunk tables against brute force."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.codecs import CHUNK_DTYPE, ChunkTable, Codec, parse_pipeline
from dataplane.codecs.table import fill_bytes
from dataplane.errors import ConfigError, FormatError
from tests.codecs.cases import MISSING

RAW = parse_pipeline([], "f4")


def table(
    shape: tuple[int, ...], chunk_shape: tuple[int, ...], box: Any = None, **more: Any
) -> ChunkTable:
    count = int(np.prod([-(-n // c) for n, c in zip(shape, chunk_shape, strict=True)]))
    arguments: dict[str, Any] = {
        "offsets": np.arange(count, dtype=np.uint64) * 100,
        "nbytes": np.full(count, 100, np.uint64),
        "dtype": "f4",
        "pipeline": RAW,
        **more,
    }
    return ChunkTable.for_box(shape=shape, chunk_shape=chunk_shape, box=box, **arguments)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], list[tuple[int, int]]]:
    ndim = draw(st.integers(0, 3))
    shape = tuple(draw(st.integers(0, 9)) for _ in range(ndim))
    chunks = tuple(draw(st.integers(1, 10)) for _ in range(ndim))
    box = []
    for n in shape:
        lo = draw(st.integers(0, n))
        box.append((lo, draw(st.integers(lo, n))))
    return shape, chunks, box


@settings(max_examples=300, deadline=None)
@given(boxes())
def test_rows_cover_the_box_once_and_name_the_right_elements(case: Any) -> None:
    shape, chunks, box = case
    rows = table(shape, chunks, box).rows
    grid = [-(-n // c) for n, c in zip(shape, chunks, strict=True)]
    seen = {}
    for row in rows:
        d = len(shape)
        index = np.unravel_index(int(row["chunk"]), grid) if d else ()
        assert row["source_offset"] == row["chunk"] * 100
        assert (row["extent"][:d] > 0).all()
        for step in itertools.product(*(range(n) for n in row["extent"][:d])):
            start = row["chunk_start"][:d]
            within = tuple(int(s) + i for s, i in zip(start, step, strict=True))
            assert all(w < c for w, c in zip(within, chunks, strict=True))
            element = tuple(int(k) * c + w for k, c, w in zip(index, chunks, within, strict=True))
            place = tuple(
                int(s) + i for s, i in zip(row["destination_start"][:d], step, strict=True)
            )
            assert place not in seen
            seen[place] = element
    origin = [lo for lo, _ in box]
    expected = itertools.product(*(range(hi - lo) for lo, hi in box))
    assert seen == {p: tuple(o + i for o, i in zip(origin, p, strict=True)) for p in expected}


def test_only_the_chunks_that_a_box_touches_are_listed() -> None:
    rows = table((100, 100), (10, 10), [(15, 25), (30, 31)]).rows
    assert rows["chunk"].tolist() == [13, 23]
    assert rows["chunk_start"][:, :2].tolist() == [[5, 0], [0, 0]]
    assert rows["extent"][:, :2].tolist() == [[5, 1], [5, 1]]
    assert rows["destination_start"][:, :2].tolist() == [[0, 0], [5, 0]]


def test_chunks_that_are_not_stored_become_fill_rows() -> None:
    offsets = np.array([0, MISSING, 100], np.uint64)
    rows = table((6,), (2,), offsets=offsets, nbytes=np.where(offsets == MISSING, offsets, 8),
                 fill_value="NaN").rows  # fmt: skip
    assert rows["codec"].tolist() == [Codec.RAW, Codec.FILL, Codec.RAW]
    assert np.isnan(rows["fill"][1][:4].view("f4")[0])
    assert rows["source_nbytes"].tolist() == [8, 0, 8]


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"offsets": np.zeros(2, np.uint64)}, "3 chunks"),
        ({"nbytes": np.zeros(4, np.uint64)}, "3 chunks"),
        ({"offsets": np.array([0, MISSING, 0], np.uint64)}, "without a length"),
        ({"source_start": 150}, "chunk 0 is at byte 0, before"),
        ({"dtype": "f8"}, "codec chain for float32"),
        ({"fill_value": "soon"}, "fill value"),
    ],
)
def test_metadata_that_contradicts_itself_is_refused(more: Any, match: str) -> None:
    with pytest.raises(FormatError, match=match):
        table((6,), (2,), **more)


@pytest.mark.parametrize("chunk_shape", [(0,), (-1,), (2**32,), (2, 2)])
def test_impossible_chunk_shapes_are_refused(chunk_shape: Any) -> None:
    empty = np.zeros(0, np.uint64)
    with pytest.raises(FormatError, match="chunks of"):
        ChunkTable.for_box(shape=(6,), chunk_shape=chunk_shape, dtype="f4", pipeline=RAW,
                           offsets=empty, nbytes=empty)  # fmt: skip


@pytest.mark.parametrize("box", [[(0, 7)], [(-1, 2)], [(3, 2)], [], [(0, 1), (0, 1)]])
def test_a_box_outside_the_array_is_refused(box: Any) -> None:
    with pytest.raises(ConfigError, match="box"):
        table((6,), (2,), box)


def test_too_many_dimensions_and_odd_destinations_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most 8"):
        table((1,) * 9, (1,) * 9)
    for start in ([0, 0], [-1]):
        with pytest.raises(ConfigError, match="destination_start"):
            table((6,), (2,), destination_start=start)


def test_tables_join_in_order_and_hold_only_chunk_rows() -> None:
    joined = ChunkTable.concatenate([table((6,), (2,)), table((2,), (2,), destination=3)])
    assert joined.rows["destination"].tolist() == [0, 0, 0, 3]
    assert len(ChunkTable.concatenate([])) == 0
    assert ChunkTable(joined.rows[::2]).rows.flags.c_contiguous
    with pytest.raises(ConfigError, match="CHUNK_DTYPE"):
        ChunkTable(np.zeros(3))
    assert CHUNK_DTYPE.itemsize == 216


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (None, "i4", np.int32(0)),
        (7, "u1", np.uint8(7)),
        (True, "?", np.True_),
        (-1.5, "f8", np.float64(-1.5)),
        ("Infinity", "f4", np.float32("inf")),
        ("-Infinity", "f2", np.float16("-inf")),
        ("0x3f800000", "f4", np.float32(1)),
        ([1, "Infinity"], "c8", np.array([1, np.inf], "f4").view("c8")[0]),
    ],
)
def test_fill_values_are_read_as_in_zarr_metadata(value: Any, dtype: str, expected: Any) -> None:
    assert fill_bytes(value, np.dtype(dtype)) == expected.tobytes()


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(300, "u1"), (-1, "u4"), ("x", "f4"), ({}, "i4"), ([1], "c8"), ("0xfffffffff", "f4")],
)
def test_fill_values_that_do_not_fit_are_refused(value: Any, dtype: str) -> None:
    with pytest.raises(FormatError, match="fill value"):
        fill_bytes(value, np.dtype(dtype))


def test_a_box_that_is_larger_than_a_chunk_may_be_is_filled_in_parts() -> None:
    box = ((3, 70_003), (0, 1), (5, 10_005))
    rows = ChunkTable.fill([box], dtype="f4", value=1).rows
    extents = rows["extent"][:, :3].astype(object)
    assert max(a * b * c * 4 for a, b, c in extents) < 1 << 31
    assert sum(a * b * c for a, b, c in extents) == 70_000 * 10_000
    seen = sorted(
        tuple((int(start), int(start + extent)) for start, extent in zip(*row, strict=True))
        for row in zip(rows["destination_start"][:, :3], extents, strict=True)
    )
    assert seen == [((3, 35_003), (0, 1), (5, 10_005)), ((35_003, 70_003), (0, 1), (5, 10_005))]
