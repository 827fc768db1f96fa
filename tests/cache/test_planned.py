"""Reads planned as arrays are fetched, kept and let go of like those planned one by one."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
import pytest

from dataplane.cache import Cache, CacheConfig, CachedObject, PlannedRead, PlannedTable
from dataplane.cache.planned import BlockUses
from tests.cache.fakes import BLOCK, read_all, wait_until
from tests.cache.inside import is_idle, pins_of

BLOCKS = 64


@pytest.fixture
def blob(cache, store):
    return cache.open(store, store.put("a", os.urandom(BLOCKS * BLOCK)))


def reads_of(
    sources: Sequence[CachedObject], rows: Sequence[tuple[int, int, int, int]], epoch: int = 0
) -> PlannedTable:
    """Reads from rows of (source, start, stop, step)."""
    table = np.array(rows, np.int64).reshape(-1, 4)
    starts, stops = table[:, 1].astype(np.uint64), table[:, 2].astype(np.uint64)
    return PlannedTable(sources, table[:, 0], starts, stops, table[:, 3], epoch)


def of_blocks(blob: CachedObject, blocks: Sequence[int], first_step: int = 0, epoch: int = 0):
    """A read in each of the blocks, a step each."""
    rows = [(0, n * BLOCK + 5, n * BLOCK + 9, step) for step, n in enumerate(blocks, first_step)]
    return reads_of([blob], rows, epoch)


def test_uses_of_blocks_are_those_of_the_reads(cache, store, blob):
    short = cache.open(store, store.put("short", bytes(BLOCK + 7)))
    reads = reads_of(
        [blob, short],
        [
            (0, 3, 3, 0),
            (0, BLOCK - 1, 3 * BLOCK + 1, 1),
            (1, BLOCK, BLOCK + 7, 1),
            (0, 3 * BLOCK, 4 * BLOCK, 4),
            (1, 0, BLOCK + 1, 6),
        ],
        epoch=2,
    )
    uses = reads.block_uses()
    assert len(uses) == 8
    found = [(read.source.name, read.start, read.stop, read.step) for read in uses.runs()]
    a, b, end = blob.name, short.name, BLOCK + 7
    whole = [(a, n * BLOCK, (n + 1) * BLOCK) for n in range(4)]
    assert found == [
        (a, 0, 4 * BLOCK, 1),
        (b, BLOCK, end, 1),
        (*whole[3], 4),
        (b, 0, end, 6),
    ]
    last = [(read.source.name, read.start, read.stop, read.step) for read in uses.last_uses()]
    assert last == [
        *((*block, 1) for block in whole[:3]),
        (*whole[3], 4),
        (b, BLOCK, end, 6),
        (b, 0, BLOCK, 6),
    ]
    assert {read.epoch for read in uses.last_uses()} == {2}


@pytest.mark.parametrize(
    ("blocks", "steps", "runs"),
    [
        ([], [], []),
        ([4], [0], [(4, 5, 0)]),
        ([4, 5, 6], [0, 0, 1], [(4, 6, 0), (6, 7, 1)]),
        ([5, 4, 6, 7], [0, 0, 0, 0], [(5, 6, 0), (4, 5, 0), (6, 8, 0)]),
        ([3, 3, 4], [0, 1, 1], [(3, 4, 0), (3, 5, 1)]),
    ],
    ids=str,
)
def test_runs_are_of_following_blocks_that_one_step_needs(blob, blocks, steps, runs):
    keys = np.array(blocks, np.int64)
    uses = BlockUses([blob], keys, np.array(steps, np.int64), 0)
    found = [(read.start // BLOCK, -(-read.stop // BLOCK), read.step) for read in uses.runs()]
    assert found == runs
    bounds = np.cumsum([0] + [stop - start for start, stop, _ in runs]).tolist()
    for place in range(1, len(blocks) + 1):
        assert uses.end_of_run(place) == min(bound for bound in bounds if bound >= place)


@pytest.mark.parametrize("is_guest", [None, False, True])
def test_uses_say_whether_another_node_owns_the_samples(blob, is_guest):
    reads = dataclasses.replace(of_blocks(blob, range(4)), is_guest=is_guest)
    uses = reads.block_uses()[1:3]
    assert [read.is_guest for read in uses.runs()] == [is_guest] * 2
    assert [read.is_guest for read in uses.last_uses()] == [is_guest] * 2


@pytest.mark.parametrize("resident", [[], [3], list(range(0, BLOCKS, 2)), list(range(BLOCKS))])
def test_missing_blocks_are_fetched_once_wherever_others_are(cache, store, blob, resident):
    for block in resident:
        blob.read(block * BLOCK, block * BLOCK + 1)
    wait_until(lambda: is_idle(cache))
    order = [int(n) for n in np.random.default_rng(3).permutation(BLOCKS)]
    with cache.plan([of_blocks(blob, order * 3)]) as ahead:
        wait_until(lambda: blob.resident_bytes() == BLOCKS * BLOCK)
        wait_until(lambda: len(pins_of(cache)) == BLOCKS)
        assert ahead.ahead_bytes == BLOCKS * BLOCK
    assert len(store.gets()) == BLOCKS
    assert cache.counters["cache_prefetch_blocks"] == BLOCKS - len(resident)
    assert pins_of(cache) == {}


def test_they_are_asked_for_in_the_order_of_the_plan(tmp_path, store):
    config = CacheConfig(
        dir=tmp_path / "cache", block_bytes=BLOCK, request_bytes=BLOCK, fetch_threads=1
    )
    with Cache(config) as cache:
        blob = cache.open(store, store.put("a", os.urandom(BLOCKS * BLOCK)))
        order = [5, 3, 60, 0, 17, 4]
        with cache.plan([of_blocks(blob, order[:4]), of_blocks(blob, order[4:], 4)]):
            wait_until(lambda: blob.resident_bytes() == 6 * BLOCK)
    assert [start // BLOCK for start, _ in store.gets()] == order


@pytest.mark.parametrize("is_warm", [False, True])
def test_the_window_is_respected_and_moves_with_the_reader(cache, blob, is_warm):
    if is_warm:
        read_all(blob)
        wait_until(lambda: is_idle(cache))
    with cache.plan([of_blocks(blob, range(40))], window_bytes=5 * BLOCK) as ahead:
        for step in range(0, 35, 5):
            expected = {(blob.name, n) for n in range(step, step + 5)}
            wait_until(lambda: set(pins_of(cache)) == expected)  # noqa: B023
            assert ahead.ahead_bytes == 5 * BLOCK
            ahead.advance(step + 5)


def test_a_resident_block_counts_once_and_stays_until_the_last_step(cache, blob):
    read_all(blob)
    wait_until(lambda: is_idle(cache))
    steps = [n % 4 for n in range(100)]
    with cache.plan([of_blocks(blob, steps)], window_bytes=4 * BLOCK) as ahead:
        wait_until(lambda: ahead._last_step == {(blob.name, n): 96 + n for n in range(4)})
        assert set(pins_of(cache).values()) == {1}
        ahead.advance(97)
        assert ahead.ahead_bytes == 3 * BLOCK
        ahead.advance(100)
        assert ahead.ahead_bytes == 0
        assert pins_of(cache) == {}
        assert ahead._by_step == {}
        assert ahead._steps == []


@pytest.mark.parametrize("is_warm", [False, True])
def test_a_reader_that_overtakes_the_plan_is_followed(cache, blob, is_warm):
    if is_warm:
        read_all(blob)
        wait_until(lambda: is_idle(cache))
    with cache.plan([of_blocks(blob, range(BLOCKS))], window_bytes=2 * BLOCK) as ahead:
        wait_until(lambda: ahead.ahead_bytes == 2 * BLOCK)
        ahead.advance(50)
        wait_until(lambda: set(pins_of(cache)) == {(blob.name, 50), (blob.name, 51)})


def test_what_enters_of_the_next_epoch_is_limited_also_when_it_is_resident(tmp_path, store):
    config = CacheConfig(dir=tmp_path / "c", block_bytes=BLOCK, next_epoch_bytes=3 * BLOCK)
    with Cache(config) as cache:
        blob = cache.open(store, store.put("a", os.urandom(BLOCKS * BLOCK)))
        read_all(blob)
        wait_until(lambda: is_idle(cache))
        epochs = [of_blocks(blob, range(20 * n, 20 * n + 20), 20 * n, n) for n in range(3)]
        with cache.plan(epochs) as ahead:
            wait_until(lambda: ahead.ahead_bytes == 23 * BLOCK)
            ahead.advance(20)
            assert set(pins_of(cache)) == {(blob.name, n) for n in range(20, 23)}
            ahead.begin_epoch(1)
            wait_until(lambda: ahead.ahead_bytes == 23 * BLOCK)
            assert set(pins_of(cache)) == {(blob.name, n) for n in range(20, 43)}


def test_they_mix_with_reads_planned_one_by_one(cache, blob):
    reads = [of_blocks(blob, [1, 2]), PlannedRead(blob, 9 * BLOCK, 10 * BLOCK, 2)]
    with cache.plan([*reads, of_blocks(blob, [4], 3)]):
        wait_until(lambda: blob.resident_bytes() == 4 * BLOCK)
        assert set(pins_of(cache)) == {(blob.name, n) for n in (1, 2, 9, 4)}


def test_closing_ends_a_plan_in_the_middle_of_them(cache, blob):
    ahead = cache.plan([of_blocks(blob, range(BLOCKS))], window_bytes=3 * BLOCK)
    wait_until(lambda: ahead.ahead_bytes == 3 * BLOCK)
    ahead.close()
    assert not ahead._thread.is_alive()
    assert pins_of(cache) == {}
