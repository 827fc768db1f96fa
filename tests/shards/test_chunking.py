"""Inner chunk shapes: near the target, cubes for volumes, runs of rows for meshes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.shards.chunking import inner_chunk_shape

KIB = 1024
TARGET = 256 * KIB


@pytest.mark.parametrize(
    ("shape", "itemsize", "names", "expected"),
    [
        ((128, 128, 128), 4, ("z", "y", "x"), (32, 32, 64)),
        ((256, 256, 256), 8, None, (32, 32, 32)),
        ((1_000_000, 3), 4, ("point", "axis"), (15625, 3)),
        ((1_000_000,), 4, ("point",), (62500,)),
        ((10, 64, 64, 64), 4, ("t", "z", "y", "x"), (1, 32, 32, 64)),
        ((1000, 100), 4, ("time", "probe"), (500, 100)),
        ((1000,), 8, ("time",), (1000,)),
        ((), 8, None, ()),
        ((0, 3), 4, None, (1, 3)),
        ((7,), 1, None, (7,)),
    ],
)
def test_typical_arrays_get_the_documented_chunks(
    shape: tuple[int, ...],
    itemsize: int,
    names: tuple[str, ...] | None,
    expected: tuple[int, ...],
) -> None:
    assert inner_chunk_shape(shape, itemsize, TARGET, names) == expected


def test_rows_of_a_mesh_stay_whole() -> None:
    assert inner_chunk_shape((100_000, 500), 4, TARGET, ("point", "mode"))[1] == 500
    assert inner_chunk_shape((100_000, 3, 3), 8, TARGET)[1:] == (3, 3)


def test_sides_of_a_volume_differ_at_most_by_a_factor_of_two() -> None:
    chunk = inner_chunk_shape((300, 290, 310), 4, TARGET, ("z", "y", "x"))
    assert max(chunk) <= 2 * min(chunk) + 1


def test_a_row_larger_than_a_chunk_is_split() -> None:
    chunk = inner_chunk_shape((10, 1_000_000), 4, TARGET, ("cell", "mode"))
    assert chunk[0] == 1
    assert math.prod(chunk) * 4 <= TARGET * math.sqrt(2)


@given(
    shape=st.lists(st.integers(0, 5000), max_size=5),
    itemsize=st.sampled_from([1, 2, 4, 8, 16]),
    target=st.integers(KIB, 1 << 22),
    names=st.lists(st.sampled_from(["t", "z", "y", "x", "c", "point", "cell"]), min_size=5),
    named=st.booleans(),
)
def test_chunks_fit_the_array_and_the_target(
    shape: list[int], itemsize: int, target: int, names: list[str], named: bool
) -> None:
    chunk = inner_chunk_shape(shape, itemsize, target, names[: len(shape)] if named else None)
    assert len(chunk) == len(shape)
    assert all(1 <= c <= max(1, n) for c, n in zip(chunk, shape, strict=True))
    chunk_bytes = math.prod(chunk) * itemsize
    assert chunk_bytes <= target * math.sqrt(2)
    if math.prod(max(1, n) for n in shape) * itemsize >= target:
        # Halving stops at the first size below the limit; rounding up only adds. A step of time of
        # a quarter of the target is a chunk.
        assert chunk_bytes * 4 >= target
