"""The disk of a host in simulated time keeps what the cache would keep."""

from __future__ import annotations

import numpy as np
import pytest

from dataplane.cache.admin import PASSES, SLACK_SHARE, map_disk_bytes
from dataplane.planning.blocks import BlockTable
from dataplane.planning.host_disk import HostDisk

BLOCK = 4096
MAP = map_disk_bytes(100)


def disk(limit_blocks: int, foreign: list[int] | None = None, pinned: set[int] | None = None):
    table = BlockTable()
    table.add(100 * BLOCK, BLOCK)
    taken = set() if pinned is None else pinned
    return HostDisk(
        table, limit_blocks * BLOCK + MAP, foreign or [], lambda rank, block: block in taken
    )


def fill(one: HostDisk, block: int, now_s: float) -> bool:
    kept = one.reserve(block, now_s)
    if kept:
        one.commit(block, now_s)
    return kept


def test_what_came_first_stays_while_a_dataset_is_read_again_and_again():
    one = disk(3)
    one.begin_pass(0.0)
    assert [fill(one, block, float(2 * block)) for block in range(5)] == [True] * 3 + [False] * 2
    assert [block in one for block in range(5)] == [True] * 3 + [False] * 2
    assert one.refused_blocks == 2
    assert one.used_bytes == 3 * BLOCK + MAP


def test_a_disk_without_room_says_so_for_a_second():
    one = disk(1)
    one.begin_pass(0.0)
    fill(one, 0, 0.0)
    assert not one.is_full(0.5)
    fill(one, 1, 0.5)
    assert one.is_full(1.4)
    assert not one.is_full(1.6)


def test_what_is_of_no_working_set_goes_first():
    one = disk(4, [BLOCK, BLOCK])
    # The map of the foreign entry takes two blocks as well.
    foreign_map = map_disk_bytes(2)
    assert one.used_bytes == 2 * BLOCK + foreign_map
    one.begin_pass(0.0)
    kept = [fill(one, block, float(2 * block)) for block in range(4)]
    assert kept.count(True) == 4 - foreign_map // BLOCK
    assert one.used_bytes <= 4 * BLOCK + MAP


@pytest.mark.parametrize("seed", range(5))
def test_what_was_not_used_in_the_last_passes_goes_least_recently_used_first(seed: int):
    rng = np.random.default_rng(seed)
    limit = 60
    pinned: set[int] = set()
    one = disk(limit, pinned=pinned)
    last: dict[int, float] = {}
    starts: list[float] = []
    now_s = 0.0
    for _ in range(2 * PASSES):
        now_s += 5.0
        one.begin_pass(now_s)
        starts.append(now_s)
        for block in rng.permutation(100)[:35].tolist():
            now_s += 2.0  # beyond the time for which a full disk is not asked again
            pinned.clear()
            pinned.add(int(rng.integers(100)))
            if block in last:
                one.use([block], now_s)
                last[block] = now_s
                continue
            # The cache's own rule, over all blocks each time.
            room = len(last) < limit
            if not room:
                first_s = starts[-PASSES] if len(starts) >= PASSES else -1.0
                old = sorted(
                    (used_s, other)
                    for other, used_s in last.items()
                    if used_s < first_s and other not in pinned
                )
                goal = BLOCK + (limit * BLOCK + MAP) // SLACK_SHARE
                goal += (len(last) - limit) * BLOCK
                for _, other in old[: -(-goal // BLOCK)]:
                    del last[other]
                room = len(last) < limit
            assert fill(one, block, now_s) == room
            if room:
                last[block] = now_s
            assert {other for other in range(100) if other in one} == set(last)
    assert one.evicted_bytes > 0


@pytest.mark.parametrize("seed", range(5))
def test_guests_make_room_for_what_is_owned_least_recently_used_first(seed: int):
    rng = np.random.default_rng(seed)
    limit, blocks = 40, 100
    table = BlockTable()
    table.add(blocks * BLOCK, BLOCK)
    pinned: set[tuple[int, int]] = set()

    def is_pinned(rank: int, block: int) -> bool:
        return (rank, block) in pinned

    one = HostDisk(table, limit * BLOCK + MAP, [], is_pinned, ranks=2)
    guests = [set(rng.permutation(blocks)[:60].tolist()) for _ in range(2)]
    for rank, of_rank in enumerate(guests):
        for block in of_rank:
            one.note_kind(block, rank, is_guest=True)
    owned = set(rng.permutation(blocks)[:20].tolist())
    for block in owned:  # once owned, always owned
        one.note_kind(block, 0, is_guest=False)
        one.note_kind(block, 0, is_guest=True)
    guests[0] -= owned
    last: dict[int, float] = {}
    now_s = 0.0
    kinds = set()
    for rank in (0, 1):
        one.begin_pass(now_s, rank)
    for block in rng.integers(blocks, size=600).tolist():
        now_s += 2.0  # beyond the time for which a full disk is not asked again
        rank = int(rng.integers(2))
        pinned.clear()
        pinned.update((int(rng.integers(2)), int(other)) for other in rng.integers(blocks, size=5))
        if block in last:
            one.use([block], now_s)
            last[block] = now_s
            continue
        if len(last) == limit and block not in guests[rank]:
            order = sorted((used_s, other) for other, used_s in last.items())
            going = [it for _, it in order if it in guests[rank] and (rank, it) not in pinned]
            goal = BLOCK + (limit * BLOCK + MAP) // SLACK_SHARE
            for other in going[: -(-goal // BLOCK)]:
                del last[other]
        room = len(last) < limit
        kinds.add((rank, block in guests[rank], room))
        kept = one.reserve(block, now_s, rank)
        assert kept == room
        if kept:
            one.commit(block, now_s)
            last[block] = now_s
        assert {other for other in range(blocks) if other in one} == set(last)
    assert {(0, True, False), (0, False, True), (1, False, True)} <= kinds
    assert one.used_bytes == len(last) * BLOCK + MAP


def test_a_disk_that_is_full_for_guests_is_not_full_for_what_is_owned():
    table = BlockTable()
    table.add(100 * BLOCK, BLOCK)
    one = HostDisk(table, 2 * BLOCK + MAP, [], lambda rank, block: False)
    for block in range(4):
        one.note_kind(block, 0, is_guest=block != 3)
    one.begin_pass(0.0)
    assert [fill(one, block, 0.1) for block in range(3)] == [True, True, False]
    assert one.is_full(0.2)
    assert fill(one, 3, 0.2)
    assert 3 in one
    assert 0 not in one
