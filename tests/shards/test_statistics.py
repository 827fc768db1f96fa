"""Statistics gathered in parts equal those of the whole array."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.shards.model import Stats
from dataplane.shards.statistics import PartialStats, partial_stats


def gather(values: np.ndarray, cuts: list[int]) -> Stats | None:
    total = PartialStats()
    for part in np.split(values, sorted(cuts)):
        total = total.combine(partial_stats(part))
    return total.finish()


@given(
    values=st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=4),
)
def test_parts_combine_to_the_whole(values: list[float], cuts: list[int]) -> None:
    array = np.array(values)
    stats = gather(array, cuts)
    assert stats is not None
    known = array[~np.isnan(array)]
    assert stats.nan_count == len(array) - len(known)
    if known.size == 0:
        assert math.isnan(stats.mean)
        return
    assert (stats.minimum, stats.maximum) == (known.min(), known.max())
    assert stats.mean == pytest.approx(known.mean(), abs=1e-6)
    assert stats.std == pytest.approx(known.std(), rel=1e-6, abs=1e-5)


def test_a_large_offset_does_not_cancel_the_spread() -> None:
    array = (1e8 + np.random.default_rng(0).standard_normal(100_000)).astype(np.float64)
    stats = gather(array, [10, 5000, 70_000])
    assert stats is not None
    assert stats.std == pytest.approx(array.std(), rel=1e-9)


def test_float32_is_accumulated_in_float64() -> None:
    array = np.full(10_000_000 // 8, 0.1, np.float32)
    stats = gather(array, [100])
    assert stats is not None
    assert stats.mean == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_infinities_show_in_the_extremes_and_are_left_out_of_the_mean() -> None:
    for cuts in ([], [1], [1, 2, 3]):
        stats = gather(np.array([1.0, np.inf, np.nan, 4.0]), cuts)
        assert stats == Stats(1.0, math.inf, 2.5, 1.5, 1)
    nothing = gather(np.array([np.inf, np.inf]), [1])
    assert nothing is not None
    assert (nothing.minimum, nothing.maximum) == (math.inf, math.inf)
    assert math.isnan(nothing.mean)
    assert math.isnan(nothing.std)


@pytest.mark.parametrize("array", [np.zeros(0), np.zeros(3, np.complex64)])
def test_arrays_without_order_have_no_statistics(array: np.ndarray) -> None:
    assert gather(array, []) is None


def test_booleans_and_integers_count() -> None:
    assert gather(np.array([True, False]), []) == Stats(0.0, 1.0, 0.5, 0.5, 0)
    assert gather(np.array([2**63], np.uint64), []) == Stats(2.0**63, 2.0**63, 2.0**63, 0.0, 0)
