"""The order against brute force, and the properties that resuming relies on."""

from __future__ import annotations

import itertools

import pytest

from dataplane.datasets.order import (
    InOrder,
    OrderRule,
    Shuffled,
    global_order,
    rank_count,
    rank_positions,
)
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


@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_any_few_positions_of_a_rank_are_as_in_the_whole(drop_last: bool, block: int) -> None:
    for n, start, world_size in itertools.product((0, 1, 7, 20), (0, 3, 8), (1, 3)):
        for rank in range(world_size):
            given = {
                "rank": rank,
                "world_size": world_size,
                "start": start,
                "drop_last": drop_last,
                "block": block,
            }
            whole = rank_positions(n, **given).tolist()
            for first in range(len(whole) + 2):
                for stop in range(first, len(whole) + 3):
                    some = rank_positions(n, **given, first=first, stop=stop)
                    assert some.tolist() == whole[first:stop]


@pytest.mark.parametrize("rule", [InOrder(7), Shuffled(7)])
def test_a_rule_gives_samples_at_any_positions_and_no_looks(rule: OrderRule) -> None:
    assert rule.length == 7
    order = rule.of_epoch(3, 4)
    whole = global_order(7, seed=3, epoch=4, shuffle=rule.is_drawn)
    samples, looks = order.read([6, 0, 6, 2])
    assert samples.tolist() == whole[[6, 0, 6, 2]].tolist()
    assert looks is None
    assert len(order) == 7
    with pytest.raises(IndexError, match="position 7"):
        order.read([7])
    assert rule.of_samples(9) == type(rule)(9)


def test_without_shuffle_the_order_is_the_order_of_the_dataset() -> None:
    assert global_order(4, seed=9, epoch=2, shuffle=False).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "call",
    [
        lambda: rank_positions(3, rank=2, world_size=2),
        lambda: rank_positions(3, rank=-1, world_size=2),
        lambda: rank_positions(3, block=0),
        lambda: rank_positions(3, first=-1),
        lambda: rank_count(3, world_size=0),
        lambda: rank_count(3, start=-1),
        lambda: rank_count(-3),
    ],
)
def test_numbers_out_of_range_are_refused(call: object) -> None:
    with pytest.raises(ConfigError):
        call()  # type: ignore[operator]
