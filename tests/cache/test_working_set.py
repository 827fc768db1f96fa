"""A dataset that does not fit keeps its share: the hit rate of shuffled epochs is the budget's."""

from __future__ import annotations

import math
import os
import random

import pytest

from dataplane.cache import Cache, CacheConfig, PlannedRead
from dataplane.cache.disk.entry_identity import map_disk_bytes
from dataplane.cache.eviction.working_set import WorkingSet, WorkingSets
from tests.cache.fakes import BLOCK, read_all, wait_until
from tests.cache.inside import entry_of

OBJECTS = 4
BLOCKS = 50  # of each


@pytest.fixture
def blobs_of(store):
    contents = [os.urandom(BLOCKS * BLOCK) for _ in range(OBJECTS)]
    infos = [store.put(f"o{number}", content) for number, content in enumerate(contents)]
    return lambda cache: [cache.open(store, info) for info in infos]


def _config(folder, share: float) -> CacheConfig:
    maps = OBJECTS * map_disk_bytes(BLOCKS)
    size = round(share * OBJECTS * BLOCKS) * BLOCK + maps
    return CacheConfig(dir=folder, block_bytes=BLOCK, size_bytes=size)


def _epoch(cache, blobs, rng, *, planned: bool = True) -> float:
    """Read every block once in a new order; return the share that the store was not asked for."""
    order = [(blob, block) for blob in blobs for block in range(BLOCKS)]
    rng.shuffle(order)
    reads = [
        PlannedRead(blob, block * BLOCK, (block + 1) * BLOCK, step)
        for step, (blob, block) in enumerate(order)
    ]
    before = _from_store(cache)
    if not planned:
        for read in reads:
            read.source.read(read.start, read.stop)
    else:
        with cache.plan(reads) as ahead:
            for step, (blob, block) in enumerate(order):
                # A reader that overtakes the plan is another story.
                wait_until(lambda: cache.buffer.is_pinned(blob.name, block))  # noqa: B023
                blob.read(block * BLOCK, (block + 1) * BLOCK)
                ahead.advance(step + 1)
    return 1 - (_from_store(cache) - before) / (len(order) * BLOCK)


def _from_store(cache) -> float:
    counters = cache.counters
    return counters["cache_fetch_bytes"] + counters["cache_passthrough_bytes"]


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7])
def test_the_hit_rate_of_planned_epochs_is_the_share_of_the_budget(tmp_path, blobs_of, share):
    with Cache(_config(tmp_path / "c", share)) as cache:
        rng = random.Random(3)
        assert _epoch(cache, blobs_of(cache), rng) == pytest.approx(0, abs=0.01)
        for _ in range(3):
            assert _epoch(cache, blobs_of(cache), rng) == pytest.approx(share, abs=0.01)
        assert cache.counters["cache_evicted_bytes"] == 0
    with Cache(_config(tmp_path / "unplanned", share)) as cache:
        rates = [_epoch(cache, blobs_of(cache), rng, planned=False) for _ in range(4)]
        lru = share + (1 - share) * math.log(1 - share)
        assert rates[-1] == pytest.approx(lru, abs=0.1)


def test_what_no_plan_reads_makes_room(tmp_path, blobs_of, store):
    config = _config(tmp_path / "c", 0.5)
    with Cache(config) as cache:
        other = os.urandom(80 * BLOCK)
        read_all(cache.open(store, store.put("other", other)))
    with Cache(config) as cache:
        rng = random.Random(3)
        rates = [_epoch(cache, blobs_of(cache), rng) for _ in range(3)]
        assert cache.counters["cache_evicted_bytes"] >= 79 * BLOCK
        assert rates[1:] == pytest.approx([0.5, 0.5], abs=0.05)


def test_a_plan_makes_room_for_another_dataset_of_the_same_process(tmp_path, blobs_of):
    with Cache(_config(tmp_path / "c", 0.5)) as cache:
        first, second = blobs_of(cache)[:2], blobs_of(cache)[2:]
        rng = random.Random(3)
        assert [_epoch(cache, first, rng) for _ in range(2)] == pytest.approx([0, 1], abs=0.05)
        assert [_epoch(cache, second, rng) for _ in range(2)] == pytest.approx([0, 1], abs=0.05)


def test_what_was_not_used_for_several_passes_may_go():
    working_sets = WorkingSets()
    working_set = None
    for tick in (10, 20, 30):
        working_set = working_sets.join("a", None, tick)
        assert working_sets.join("b", working_set, tick) is working_set
    assert working_set.keeps("a", 5)
    working_sets.join("b", None, 40)
    assert not working_set.keeps("a", 5)
    assert working_set.keeps("a", 10)
    assert not working_set.keeps("unknown", 1000)


def test_a_full_working_set_looks_for_room_again_after_a_while(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("dataplane.cache.eviction.working_set.time.monotonic", lambda: now[0])
    working_set = WorkingSet()
    assert not working_set.is_full
    working_set.mark_full()
    assert working_set.is_full
    now[0] += 2
    assert not working_set.is_full


def test_the_room_for_a_guest_is_looked_for_apart_from_that_of_owned_blocks():
    working_set = WorkingSet()
    working_set.mark_full(is_guest=True)
    assert working_set.is_full
    assert working_set.is_full_for(is_guest=True)
    assert not working_set.is_full_for(is_guest=False)
    working_set.mark_full()
    assert working_set.is_full_for(is_guest=False)


def test_a_block_that_was_owned_once_is_no_guest_again():
    working_set = WorkingSet()
    assert not working_set.is_guest("a", 1)
    working_set.note_kind("a", 1, 3, is_guest=True)
    assert working_set.is_guest("a", 1)
    assert not working_set.is_guest("a", 0)
    assert not working_set.is_guest("b", 1)
    working_set.note_kind("a", 1, 3, is_guest=False)
    working_set.note_kind("a", 1, 3, is_guest=True)
    assert not working_set.is_guest("a", 1)


def _read_as(cache, *objects) -> list[int]:
    """Read objects in one pass that says whether they are guests; return their blocks on disk."""
    reads = [
        PlannedRead(blob, block * BLOCK, (block + 1) * BLOCK, step, is_guest=is_guest)
        for step, (blob, is_guest, block) in enumerate(
            (*one, block) for one in objects for block in range(BLOCKS)
        )
    ]
    with cache.plan(reads) as ahead:
        for read in reads:
            key = read.source.name, read.start // BLOCK
            wait_until(lambda: cache.buffer.is_pinned(*key))  # noqa: B023
            read.source.read(read.start, read.stop)
            ahead.advance(read.step + 1)
    return [_kept(cache, blob) for blob, _ in objects]


def _kept(cache, blob) -> int:
    """The number of blocks of an object that are on the disk."""
    entry = entry_of(cache, blob)
    return sum(entry.blocks.is_ready(block) for block in range(BLOCKS))


@pytest.mark.parametrize(
    ("guests", "kept"),
    [
        ((True, True), (50, 14)),
        ((True, False), (14, 50)),
        ((False, True), (50, 14)),
        ((False, False), (50, 14)),
        ((None, None), (50, 14)),
    ],
)
def test_guests_make_room_for_owned_blocks_and_for_nothing_else(
    tmp_path, blobs_of, monkeypatch, guests, kept
):
    # A full cache is looked at again at once, not a second later.
    monkeypatch.setattr("dataplane.cache.eviction.working_set._FULL_S", 0.0)
    with Cache(_config(tmp_path / "c", 60 / (OBJECTS * BLOCKS))) as cache:
        objects = zip(blobs_of(cache)[:2], guests, strict=True)
        found = _read_as(cache, *objects)
    # On a busy machine some blocks come when nothing can be evicted at that moment, and are not
    # kept: of 25 runs beside three spinning processes one kept 42 and 11. Swapped is far off.
    assert found == pytest.approx(kept, abs=12)
