"""Shuffles by shards: windows, evenness within them, and their quality against brute force."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest

from dataplane.datasets.sharded import Sharded
from dataplane.errors import ConfigError

SIZES = [5, 1, 8, 3, 3, 7, 2, 2, 6, 4, 9]
SHARDS = np.repeat(np.arange(len(SIZES)), SIZES)
N = len(SHARDS)


def read(rule: Sharded, seed: int = 1, epoch: int = 0) -> np.ndarray:
    return rule.of_epoch(seed, epoch).read(np.arange(rule.length))[0]


def windows_of(order: np.ndarray, shards: np.ndarray) -> list[set[int]]:
    """Cut an order where all shards that have begun have ended."""
    left = dict(zip(*np.unique(shards, return_counts=True), strict=True))
    found: list[set[int]] = [set()]
    for sample in order:
        shard = shards[sample]
        found[-1].add(int(shard))
        left[shard] -= 1
        if not any(left[one] for one in found[-1]):
            found.append(set())
    return found[:-1]


@pytest.mark.parametrize("window", [1, 2, 3, 4, 11, 100])
@pytest.mark.parametrize("are_apart", [False, True])
def test_each_sample_comes_once_and_few_shards_are_read_at_a_time(
    window: int, are_apart: bool
) -> None:
    shards = np.random.default_rng(0).permutation(SHARDS) if are_apart else SHARDS
    rule = Sharded.of(shards, window)
    assert rule.shards == len(SIZES)
    for epoch in range(5):
        order = read(rule, 3, epoch)
        assert sorted(order.tolist()) == list(range(N))
        windows = windows_of(order, shards)
        assert max(map(len, windows)) <= window
        assert len(windows) >= -(-len(SIZES) // window)
        if window >= len(SIZES):
            assert len(windows) == 1


def test_shards_are_visited_in_an_order_that_is_drawn_anew() -> None:
    rule = Sharded.of(SHARDS, 1)
    orders = set()
    first = np.zeros(len(SIZES), np.int64)
    for epoch in range(1100):
        visited = [*dict.fromkeys(SHARDS[read(rule, 4, epoch)].tolist())]
        orders.add(tuple(visited))
        first[visited[0]] += 1
    assert len(orders) == 1100
    assert ((first - 100) ** 2 / 100).sum() < 29.6  # 99.9 % quantile for 10 degrees of freedom


def test_samples_of_a_window_are_mixed_evenly() -> None:
    rule = Sharded.of(np.repeat([0, 1], 4), 2)
    counts = np.zeros((8, 8), np.int64)
    for seed in range(2000):
        counts[np.arange(8), read(rule, seed)] += 1
    freedom = 49
    found = ((counts - 250) ** 2 / 250).sum()
    assert abs(found - freedom) / np.sqrt(2 * freedom) < 4.5


def test_any_few_positions_are_as_in_the_whole() -> None:
    for shards in (SHARDS, np.random.default_rng(0).permutation(SHARDS)):
        rule = Sharded.of(shards, 3)
        whole, order = read(rule), rule.of_epoch(1, 0)
        assert len(order) == N
        for count in (0, 1, 5, 200):
            positions = np.random.default_rng(count).integers(0, N, count)
            samples, looks = order.read(positions)
            assert samples.tolist() == whole[positions].tolist()
            assert looks is None
        with pytest.raises(IndexError, match=f"position {N}"):
            order.read([N])


def test_epochs_and_seeds_differ() -> None:
    rule = Sharded.of(SHARDS, 3)
    orders = [read(rule, seed, epoch).tolist() for seed, epoch in ((1, 0), (0, 1), (1, 1), (2, 0))]
    assert len({*map(tuple, orders)}) == 4
    assert orders[0] == read(rule, 1, 0).tolist()


def brute_quality(rule: Sharded, shards: np.ndarray) -> float:
    """Draw pairs: of a window, over a few epochs, and of the whole."""
    alike = []
    for epoch in range(4):
        order = read(rule, 0, epoch)
        epoch_order = rule.of_epoch(0, epoch)
        starts = epoch_order._starts  # type: ignore[attr-defined]
        for first, stop in itertools.pairwise(starts):
            of = shards[order[first:stop]]
            for place, shard in enumerate(of):
                others = np.delete(of, place)
                alike.append((others == shard).mean() if len(others) else 1.0)
    whole = np.mean([(np.delete(shards, place) == shards[place]).mean() for place in range(N)])
    return float((1 - np.mean(alike)) / (1 - whole))


@pytest.mark.parametrize("window", [1, 2, 4, 7, 11])
def test_the_quality_is_what_counting_pairs_gives(window: int) -> None:
    rule = Sharded.of(SHARDS, window)
    assert rule.quality == pytest.approx(brute_quality(rule, SHARDS))


def test_the_quality_grows_with_the_window_up_to_a_full_shuffle() -> None:
    shards = np.arange(100_000) // 1000
    found = [Sharded.of(shards, window).quality for window in (1, 2, 4, 16, 50, 100)]
    assert found == sorted(found)
    assert found[0] == 0
    assert found[3] == pytest.approx(1 - 1 / 16, abs=0.02)
    assert found[-1] == pytest.approx(1)
    assert Sharded.of(np.zeros(7, int), 2).quality == 1  # of one shard: a full shuffle
    assert Sharded.of(np.arange(7), 2).quality == pytest.approx(6 / 7, abs=0.01)
    assert Sharded.of(np.zeros(0, int)).quality == 1


def test_the_order_of_a_released_version_never_changes() -> None:
    assert read(Sharded.of(SHARDS, 3), 7, 3)[:10].tolist() == PINNED
    content = read(Sharded.of(np.arange(100_000) // 777, 100), 2**64 - 1, 5)
    assert hashlib.sha256(content.astype("<i8").tobytes()).hexdigest()[:16] == DIGEST


def test_rules_tell_windows_and_shards_apart() -> None:
    one = Sharded.of(SHARDS, 3)
    assert one == Sharded.of(SHARDS + 5, 3)
    others = [
        Sharded.of(SHARDS, 4),
        Sharded.of(SHARDS[::-1], 3),
        Sharded.of(np.random.default_rng(0).permutation(SHARDS), 3),
    ]
    assert len({rule.details for rule in (one, *others)}) == 4
    assert one.of_samples(N) is one
    with pytest.raises(ConfigError, match=f"knows the shards of {N} samples"):
        one.of_samples(N + 1)
    with pytest.raises(ConfigError, match="at least 1 shard"):
        Sharded.of(SHARDS, 0)


PINNED = [36, 31, 34, 29, 30, 32, 33, 35, 7, 13]
DIGEST = "f67e4fa784f7336b"
