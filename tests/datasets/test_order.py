"""The order against brute force, and the properties that resuming relies on."""

from __future__ import annotations

import numpy as np
import pytest

from dataplane.datasets.order import global_order, permutation, rank_count, rank_positions
from dataplane.errors import ConfigError


def brute_force(n: int, world_size: int, start: int, drop_last: bool) -> list[list[int]]:
    """Deal the rest of the order to the ranks one card at a time."""
    rest = list(range(start, n))
    if drop_last:
        while len(rest) % world_size:
            rest.pop()
    else:
        following = start + len(rest)
        while len(rest) % world_size:
            rest.append(following % n)
            following += 1
    hands: list[list[int]] = [[] for _ in range(world_size)]
    for turn, position in enumerate(rest):
        hands[turn % world_size].append(position)
    return hands


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
def test_ranks_take_the_positions_that_dealing_by_hand_gives(
    world_size: int, drop_last: bool
) -> None:
    for n in range(12):
        for start in range(n + 1):
            hands = brute_force(n, world_size, start, drop_last)
            for rank in range(world_size):
                taken = rank_positions(
                    n, rank=rank, world_size=world_size, start=start, drop_last=drop_last
                )
                assert taken.tolist() == hands[rank]
                assert len(taken) == rank_count(
                    n, world_size=world_size, start=start, drop_last=drop_last
                )


def test_positions_equal_those_of_the_distributed_sampler_of_torch() -> None:
    from torch.utils.data import DistributedSampler

    for n in (5, 8, 13):
        for world_size in (1, 2, 3):
            for drop_last in (False, True):
                for rank in range(world_size):
                    theirs = DistributedSampler(
                        range(n),  # type: ignore[arg-type]
                        num_replicas=world_size,
                        rank=rank,
                        shuffle=False,
                        drop_last=drop_last,
                    )
                    ours = rank_positions(n, rank=rank, world_size=world_size, drop_last=drop_last)
                    assert ours.tolist() == list(theirs)


def test_a_change_of_world_size_continues_with_the_samples_nobody_has_seen() -> None:
    n, steps = 23, 4
    seen = [int(p) for rank in range(2) for p in rank_positions(n, rank=rank, world_size=2)[:steps]]
    rest = [
        int(p) for rank in range(3) for p in rank_positions(n, rank=rank, world_size=3, start=8)
    ]
    assert sorted(seen + rest) == list(range(n))


@pytest.mark.parametrize("block", [1, 2, 3, 5])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_ranks_that_take_turns_by_the_block_share_each_step(world_size: int, block: int) -> None:
    """As Accelerate deals: what a step's ranks have, one after another, goes along the order."""
    for n in range(1, 40):
        for start in (0, block * world_size):
            hands = [
                rank_positions(n, rank=rank, world_size=world_size, start=start, block=block)
                for rank in range(world_size)
            ]
            assert len({len(hand) for hand in hands}) == 1
            gathered = [
                int(position)
                for first in range(0, len(hands[0]), block)
                for hand in hands
                for position in hand[first : first + block]
            ]
            assert gathered[: max(n - start, 0)] == list(range(start, n))


def test_a_permutation_holds_every_sample_once() -> None:
    for n in (0, 1, 2, 1000):
        assert np.array_equal(np.sort(permutation(n, seed=3, epoch=9)), np.arange(n))


def test_the_order_differs_between_epochs_and_seeds_and_repeats_for_equal_ones() -> None:
    first = permutation(100, seed=1, epoch=0)
    assert np.array_equal(first, permutation(100, seed=1, epoch=0))
    assert not np.array_equal(first, permutation(100, seed=1, epoch=1))
    assert not np.array_equal(first, permutation(100, seed=2, epoch=0))
    # (1, 0) and (0, 1) must not collide: the pair is hashed, not added.
    assert not np.array_equal(first, permutation(100, seed=0, epoch=1))


def test_the_order_of_a_released_version_never_changes() -> None:
    assert permutation(10, seed=7, epoch=3).tolist() == PINNED


def test_the_first_place_is_uniform_over_epochs() -> None:
    n, epochs = 8, 4000
    first = [int(permutation(n, seed=5, epoch=epoch)[0]) for epoch in range(epochs)]
    counts = np.bincount(first, minlength=n)
    chi_squared = float(((counts - epochs / n) ** 2 / (epochs / n)).sum())
    assert chi_squared < 24.3  # 99.9 % quantile for 7 degrees of freedom


def test_without_shuffle_the_order_is_the_order_of_the_dataset() -> None:
    assert global_order(4, seed=9, epoch=2, shuffle=False).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "call",
    [
        lambda: permutation(-1, seed=0, epoch=0),
        lambda: permutation(3, seed=-1, epoch=0),
        lambda: permutation(3, seed=2**64, epoch=0),
        lambda: permutation(3, seed=0, epoch=-1),
        lambda: rank_positions(3, rank=2, world_size=2),
        lambda: rank_positions(3, rank=-1, world_size=2),
        lambda: rank_positions(3, block=0),
        lambda: rank_count(3, world_size=0),
        lambda: rank_count(3, start=-1),
        lambda: rank_count(-3),
    ],
)
def test_numbers_out_of_range_are_refused(call: object) -> None:
    with pytest.raises(ConfigError):
        call()  # type: ignore[operator]


PINNED = [2, 4, 7, 3, 5, 1, 8, 9, 0, 6]
