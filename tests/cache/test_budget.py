"""The budget holds, the least recently used goes first, and readers never see a block go away."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace

import pytest

from dataplane.cache import Cache, CacheConfig, PlannedRead
from tests.cache.fakes import (
    BLOCK,
    assert_counted,
    data_files,
    disk_usage,
    map_files,
    read_all,
    wait_until,
)
from tests.cache.inside import entry_of


@pytest.fixture
def small(tmp_path):
    return CacheConfig(
        dir=tmp_path / "cache", block_bytes=BLOCK, size_bytes=22 * BLOCK, fetch_threads=2
    )


def _resident(cache, blob):
    missing = entry_of(cache, blob).blocks.missing(0, blob.info.size_bytes)
    return [block for block in range(-(-blob.info.size_bytes // BLOCK)) if block not in missing]


def test_the_disk_never_holds_more_than_the_budget(small, store):
    with Cache(small) as cache:
        for key in "abcdef":
            content = os.urandom(9 * BLOCK + 5)
            assert read_all(cache.open(store, store.put(key, content))) == content
            assert cache.usage_bytes() <= small.size_bytes
            assert_counted(small.dir, cache.usage_bytes())
        assert cache.counters["cache_evicted_bytes"] > 0


def test_the_least_recently_used_blocks_go_first(small, store):
    with Cache(small) as cache:
        blob = cache.open(store, store.put("a", os.urandom(30 * BLOCK)))
        for block in range(20):
            blob.read(block * BLOCK, block * BLOCK + 1)
        for block in (0, 2, 4):
            blob.read(block * BLOCK, block * BLOCK + 1)
        blob.read(25 * BLOCK, 25 * BLOCK + 1)
        resident = _resident(cache, blob)
        assert {0, 2, 4, 25} <= set(resident)
        assert 1 not in resident


def test_planned_blocks_stay_while_their_reader_has_not_had_them(small, store):
    with Cache(small) as cache:
        planned = cache.open(store, store.put("p", os.urandom(8 * BLOCK)))
        other = cache.open(store, store.put("o", os.urandom(60 * BLOCK)))
        plan = [PlannedRead(planned, 0, 8 * BLOCK, 0)]
        with cache.plan(plan) as ahead:
            wait_until(planned.is_complete)
            read_all(other)
            assert planned.is_complete()
            ahead.advance(1)
            read_all(other)
        assert not planned.is_complete()


def test_no_room_is_said_once_and_reads_go_on(small, store, monkeypatch, caplog):
    content = os.urandom(4 * BLOCK)
    asked = []

    def reserve(budget, length, working_set=None, *, is_guest=False):
        asked.append(length)
        return len(asked) == 1  # the entry's map

    monkeypatch.setattr("dataplane.cache.eviction.budget.Budget.reserve", reserve)
    monkeypatch.setattr(
        "dataplane.cache.eviction.budget.Budget.reserve_free", lambda budget, length: False
    )
    with Cache(small) as cache:
        blob = cache.open(store, store.put("a", content))
        assert read_all(blob) == content
        assert blob.resident_bytes() == 0
        assert cache.counters["cache_uncached_blocks"] == 4
    [record] = caplog.records
    assert "has no room for a block" in record.getMessage()


def test_a_claimed_block_is_not_evicted(small, store):
    with Cache(small) as cache, Cache(small) as evicting:
        blob = cache.open(store, store.put("a", os.urandom(10 * BLOCK)))
        read_all(blob)
        claim = entry_of(cache, blob).blocks
        assert claim.try_claim(3)
        read_all(evicting.open(store, store.put("b", os.urandom(60 * BLOCK))))
        assert _resident(cache, blob) == [3]
        claim.release(3)


def test_an_object_larger_than_the_budget_reads_right(small, store):
    content = os.urandom(100 * BLOCK)
    with Cache(small) as cache:
        blob = cache.open(store, store.put("a", content))
        assert read_all(blob) == content
        assert read_all(blob) == content
        assert cache.usage_bytes() <= small.size_bytes


def test_entries_without_blocks_lose_their_files_once_nobody_has_them_open(small, store):
    with Cache(small) as cache:
        read_all(cache.open(store, store.put("old", os.urandom(5 * BLOCK))))
    with Cache(small) as cache:
        read_all(cache.open(store, store.put("new", os.urandom(60 * BLOCK))))
        assert len(data_files(small.dir)) == len(map_files(small.dir)) == 1
        assert_counted(small.dir, cache.usage_bytes())


def test_the_maps_of_many_small_objects_stay_within_the_budget(small, store):
    with Cache(small) as cache:
        for number in range(60):
            blob = cache.open(store, store.put(f"k{number}", b"small"))
            assert read_all(blob) == b"small"
            assert blob.is_complete()
            assert_counted(small.dir, cache.usage_bytes())
            assert cache.usage_bytes() <= small.size_bytes
        assert cache.counters["cache_passthrough_reads"] == 0


def test_a_damaged_entry_that_is_thrown_away_is_no_longer_counted(small, store):
    info = store.put("a", os.urandom(10 * BLOCK))
    with Cache(small) as cache:
        read_all(cache.open(store, info))
    with map_files(small.dir)[0].open("r+b") as damaged:
        damaged.write(b"X")
    with Cache(small) as cache:
        cache.open(store, info).read(0, 1)
        assert_counted(small.dir, cache.usage_bytes())
        # Less by the file system's own block, if the thrown away file had one.
        assert cache.usage_bytes() in {2 * BLOCK, 3 * BLOCK}


def test_a_map_that_cannot_fit_evicts_nothing(small, store):
    from dataplane.stores.base import ObjectInfo

    with Cache(small) as cache:
        held = cache.open(store, store.put("a", os.urandom(5 * BLOCK)))
        read_all(held)
        store.put("b", b"content")
        liar = cache.open(store, ObjectInfo("b", 1 << 35, "v1"))
        assert bytes(liar.read(0, 7)) == b"content"
        assert cache.counters["cache_passthrough_reads"] == 1
        assert held.is_complete()


def test_a_count_that_drifted_far_is_corrected_by_the_next_eviction(small, store, monkeypatch):
    monkeypatch.setattr("dataplane.cache.eviction.budget._DRIFT_BYTES", 4 * BLOCK)
    # One thread: what others claim at that moment may be counted or not.
    with Cache(replace(small, fetch_threads=1)) as cache:
        blob = cache.open(store, store.put("a", os.urandom(60 * BLOCK)))
        blob.read(0, BLOCK)
        entry_of(cache, blob).budget.add(15 * BLOCK)  # as a killed process leaves its reservations
        read_all(blob)
        assert_counted(small.dir, cache.usage_bytes())
        assert disk_usage(small.dir) > small.size_bytes // 2


@pytest.mark.slow
def test_readers_racing_eviction_never_see_zeros_or_other_bytes(tmp_path, store):
    """Blocks are punched and refilled under readers of the same blocks for two seconds."""
    config = CacheConfig(dir=tmp_path / "cache", block_bytes=BLOCK, fetch_threads=4)
    content = os.urandom(16 * BLOCK)
    info = store.put("a", content)
    deadline = time.monotonic() + 2
    failures: list[str] = []
    evicted = 0
    with Cache(config) as cache, Cache(config) as evicting:
        blob = cache.open(store, info)

        def read() -> None:
            buffer = bytearray(len(content))
            while time.monotonic() < deadline and not failures:
                blob.read_into(0, len(content), buffer)
                if buffer != content:
                    failures.append("a read gave other bytes")

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        victim = entry_of(evicting, evicting.open(store, info)).blocks
        while time.monotonic() < deadline:
            for block in range(16):
                if victim.try_claim(block):
                    evicted += victim.evict(block, 1 << 63) > 0
                    victim.release(block)
        for thread in threads:
            thread.join()
    assert failures == []
    assert evicted > 100
