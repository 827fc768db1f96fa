"""Owners of samples, and global batches dealt by them, against dealing one by one by hand."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from dataplane.datasets.ownership import Nodes, deal
from dataplane.datasets.permutations import SORTED_SAMPLES
from dataplane.errors import ConfigError


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("samples", [0, 1, 5, 1000, SORTED_SAMPLES + 1000])
def test_nodes_own_equal_parts_whatever_their_number(samples: int, count: int) -> None:
    owners = Nodes(count, samples).owners(np.arange(samples))
    owned = np.bincount(owners, minlength=count)
    assert len(owned) == count
    assert owned.max() - owned.min() <= 1


@pytest.mark.parametrize("samples", [3, 100, 60_000])
def test_with_another_number_of_nodes_no_more_samples_move_than_must(samples: int) -> None:
    owners = [Nodes(count, samples).owners(np.arange(samples)) for count in range(1, 66)]
    for count, (before, after) in enumerate(itertools.pairwise(owners), 1):
        moved = before != after
        assert set(after[moved].tolist()) <= {count}
        assert moved.sum() <= -(-samples // (count + 1))
        owned = np.bincount(after, minlength=count + 1)
        assert owned.max() - owned.min() <= 1


@pytest.mark.parametrize("samples", [1001, 4 * SORTED_SAMPLES + 3])
def test_neighbours_of_a_run_have_one_owner_and_other_runs_others(samples: int) -> None:
    nodes = Nodes(4, samples, run=3)
    owners = nodes.owners(np.arange(samples))
    seconds = nodes.second_owners(np.arange(samples), owners)
    for found in (owners, seconds):
        runs = found[: samples // 3 * 3].reshape(-1, 3)
        assert (runs == runs[:, :1]).all()
        assert 0.2 < (runs[1:, 0] == runs[:-1, 0]).mean() < 0.3


def test_owners_do_not_change_from_version_to_version() -> None:
    nodes = Nodes(4, 12)
    owners = nodes.owners(np.arange(12))
    assert owners.tolist() == [0, 1, 2, 3, 3, 1, 0, 1, 0, 3, 2, 2]
    assert nodes.second_owners(np.arange(12), owners).tolist() == [
        2,
        3,
        0,
        1,
        0,
        0,
        2,
        0,
        1,
        1,
        0,
        1,
    ]


def test_the_second_owner_is_another_node_and_every_other_one_equally_often() -> None:
    nodes = Nodes(5, 50_000)
    owners = nodes.owners(np.arange(50_000))
    seconds = nodes.second_owners(np.arange(50_000), owners)
    pairs = Counter(zip(owners.tolist(), seconds.tolist(), strict=True))
    assert set(pairs) == {(a, b) for a in range(5) for b in range(5) if a != b}
    assert all(2500 * 0.9 < count < 2500 * 1.1 for count in pairs.values())
    alone = np.zeros(3, np.int64)
    assert Nodes(1, 3).second_owners(np.arange(3), alone).tolist() == [0, 0, 0]


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_each_node_gets_its_share_of_each_batch_and_its_own_samples_first(
    count: int, repeats: bool
) -> None:
    nodes, rng = Nodes(count, 997), np.random.default_rng(count)
    batches = np.stack([rng.choice(997, 6 * count, replace=repeats) for _ in range(40)])
    dealt = deal(batches, nodes)
    assert dealt.shape == batches.shape
    owners = nodes.owners(batches)
    seconds = nodes.second_owners(batches, owners)
    overflowed = 0
    for row in range(len(batches)):
        assert np.bincount(dealt[row], minlength=count).tolist() == [6] * count
        for node in range(count):
            owned = int((owners[row] == node).sum())
            kept = int(((owners[row] == node) & (dealt[row] == node)).sum())
            assert kept == min(owned, 6)
        # Whoever is at no owner of theirs found the second one full.
        lost = (dealt[row] != owners[row]) & (dealt[row] != seconds[row])
        for place in np.flatnonzero(lost):
            second = seconds[row, place]
            others = (dealt[row] == second) & ((owners[row] == second) | (seconds[row] == second))
            assert int(others.sum()) == 6
        overflowed += int((dealt[row] == seconds[row]).sum())
    assert count == 1 or overflowed > 20
    assert (deal(batches[7:8], nodes)[0] == dealt[7]).all()


def test_of_two_samples_it_is_always_the_same_one_that_overflows() -> None:
    nodes = Nodes(2, 400)
    owners = nodes.owners(np.arange(400))
    mine = np.flatnonzero(owners == 0)[:6]
    losers = {}
    for a in mine.tolist():
        for b in mine.tolist():
            if a != b:
                dealt = deal(np.array([[a, b]]), nodes)[0]
                assert sorted(dealt.tolist()) == [0, 1]
                losers[a, b] = (a, b)[int(np.flatnonzero(dealt == 1)[0])]
    assert all(losers[a, b] == losers[b, a] for a, b in losers)
    # One order of all of them: each loses against another number of others.
    counts = Counter(losers[a, b] for a, b in losers if a < b)
    assert sorted(counts[s] for s in mine.tolist()) == list(range(len(mine)))


@pytest.mark.parametrize("given", [(0, 3, 1), (2, -1, 1), (2, 3, 0)])
def test_numbers_out_of_range_are_refused(given: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="must be at least"):
        Nodes(*given)
