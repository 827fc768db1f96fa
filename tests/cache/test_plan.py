"""Plans are fetched in order, ahead of the reader, within the window, and end with `close`."""

from __future__ import annotations

import itertools
import os
import threading
from dataclasses import replace

import pytest

from dataplane.cache import Cache, CacheConfig, PlannedRead
from tests.cache.fakes import BLOCK, FolderStore, read_all, wait_until
from tests.cache.inside import (
    is_idle,
    keep_full,
    needs_blocks,
    next_epoch_count,
    pass_count,
    pins_of,
    planned_epoch,
)


@pytest.fixture
def blob(cache, store):
    return cache.open(store, store.put("a", os.urandom(64 * BLOCK)))


def _plan(blob, steps, per_step=1):
    length = BLOCK * per_step
    return [PlannedRead(blob, n * length, (n + 1) * length, n) for n in range(steps)]


def test_a_plan_is_fetched_without_its_reader(cache, store, blob):
    with cache.plan(_plan(blob, 20)):
        wait_until(lambda: blob.resident_bytes() == 20 * BLOCK)
    cache.counters.snapshot()
    gets = len(store.gets())
    blob.read(0, 20 * BLOCK)
    assert len(store.gets()) == gets == 20
    assert cache.counters["cache_prefetch_blocks"] == 20


def _one_by_one(tmp_path) -> CacheConfig:
    return CacheConfig(
        dir=tmp_path / "cache", block_bytes=BLOCK, request_bytes=BLOCK, fetch_threads=1
    )


def test_blocks_are_asked_for_in_the_order_of_the_plan(tmp_path, store):
    config = _one_by_one(tmp_path)
    with Cache(config) as cache:
        blob = cache.open(store, store.put("a", os.urandom(64 * BLOCK)))
        order = [5, 3, 60, 0, 17, 4]
        plan = [PlannedRead(blob, n * BLOCK, n * BLOCK + 1, i) for i, n in enumerate(order)]
        with cache.plan(plan):
            wait_until(lambda: blob.resident_bytes() == 6 * BLOCK)
    assert [start // BLOCK for start, _ in store.gets()] == order


def test_the_window_is_respected_and_moves_with_the_reader(cache, store, blob):
    taken: list[int] = []

    def reads():
        for read in _plan(blob, 40):
            taken.append(read.step)
            yield read

    with cache.plan(reads(), window_bytes=5 * BLOCK) as ahead:
        for step in range(0, 35, 5):
            expected = step + 5
            wait_until(lambda: blob.resident_bytes() == expected * BLOCK)  # noqa: B023
            wait_until(lambda: len(taken) == expected + 1)  # noqa: B023 - waits with the next
            assert ahead.ahead_bytes == 5 * BLOCK
            assert len(store.gets()) == expected
            ahead.advance(step + 5)


def test_a_read_larger_than_the_window_is_fetched_piece_by_piece(cache, blob):
    with cache.plan([PlannedRead(blob, 0, BLOCK * 10, 0)], window_bytes=3 * BLOCK) as ahead:
        wait_until(lambda: blob.resident_bytes() == 3 * BLOCK)
        blob.read(0, BLOCK * 10)
        ahead.advance(1)
        wait_until(lambda: ahead.ahead_bytes == 0)


def test_a_block_that_two_steps_need_counts_once_and_stays_until_the_last(cache, blob):
    plan = [PlannedRead(blob, 0, 10, 0), PlannedRead(blob, 20, 30, 3)]
    with cache.plan(plan) as ahead:
        wait_until(lambda: needs_blocks(ahead, 3))
        assert ahead.ahead_bytes == BLOCK
        ahead.advance(1)
        assert ahead.ahead_bytes == BLOCK
        assert cache.buffer.is_pinned(blob.name, 0)
        ahead.advance(4)
        assert ahead.ahead_bytes == 0
        assert not cache.buffer.is_pinned(blob.name, 0)


def test_resident_blocks_are_passed_over(cache, store, blob):
    read_all(blob)
    gets = len(store.gets())
    with cache.plan(_plan(blob, 64)) as ahead:
        wait_until(lambda: ahead.ahead_bytes == 64 * BLOCK)
    assert len(store.gets()) == gets
    assert cache.counters["cache_prefetch_blocks"] == 0


def test_a_reader_waits_for_the_planned_download_rather_than_fetching_twice(cache, store):
    slow = FolderStore(store.folder, delay_s=0.1)
    content = os.urandom(4 * BLOCK)
    blob = cache.open(slow, slow.put("a", content))
    with cache.plan(_plan(blob, 4)):
        wait_until(lambda: len(store.gets()) == 4)
        assert read_all(blob) == content
    assert len(store.gets()) == 4


def test_a_reader_goes_before_what_is_planned(tmp_path, store):
    config = _one_by_one(tmp_path)
    slow = FolderStore(store.folder, delay_s=0.05)
    with Cache(config) as cache:
        planned = cache.open(slow, slow.put("p", os.urandom(64 * BLOCK)))
        urgent = cache.open(store, store.put("u", b"now"))
        with cache.plan(_plan(planned, 64)):
            wait_until(store.gets)
            assert read_all(urgent) == b"now"
            assert len(store.gets()) <= 4


def test_close_cancels_what_has_not_begun_and_lets_go_of_everything(tmp_path, store):
    config = _one_by_one(tmp_path)
    slow = FolderStore(store.folder, delay_s=0.05)
    with Cache(config) as cache:
        blob = cache.open(slow, slow.put("p", os.urandom(64 * BLOCK)))
        ahead = cache.plan(_plan(blob, 64))
        wait_until(store.gets)
        ahead.close()
        ahead.close()
        assert ahead.ahead_bytes == 0
        assert pins_of(cache) == {}
        assert not any(thread.name == "dp-plan" for thread in threading.enumerate())
        blob.read(63 * BLOCK, 64 * BLOCK)  # after the one that had begun
        assert len(store.gets()) <= 3


def test_errors_are_left_to_the_read_that_needs_the_block(cache, store, blob):
    from dataplane.errors import NotFound
    from dataplane.stores.base import ObjectInfo

    missing = cache.open(store, ObjectInfo("missing", 10, "v1"))
    plan = [PlannedRead(missing, 0, 10, 0), PlannedRead(blob, 0, 10, 1)]
    with cache.plan(plan):
        wait_until(lambda: cache.counters["cache_prefetch_errors"] == 1)
        wait_until(lambda: blob.resident_bytes() == BLOCK)
        with pytest.raises(NotFound):
            missing.read(0, 10)


def test_a_plan_that_raises_ends_quietly(cache, blob, caplog):
    def reads():
        yield PlannedRead(blob, 0, 10, 0)
        raise RuntimeError("the plan is broken")

    with cache.plan(reads()):
        wait_until(lambda: cache.counters["cache_prefetch_errors"] == 1)
        wait_until(lambda: blob.resident_bytes() == BLOCK)
    assert "reading goes on without prefetching" in caplog.text


def test_steps_that_the_reader_has_overtaken_are_skipped(cache, store, blob):
    gate = threading.Event()

    def reads():
        gate.wait(10)
        yield from _plan(blob, 10)

    with cache.plan(reads()) as ahead:
        ahead.advance(8)
        gate.set()
        wait_until(lambda: blob.resident_bytes() == 2 * BLOCK)
    assert sorted(start // BLOCK for start, _ in store.gets()) == [8, 9]


def test_closing_the_cache_closes_its_plans(config, store):
    slow = FolderStore(store.folder, delay_s=0.02)
    cache = Cache(config)
    blob = cache.open(slow, slow.put("p", os.urandom(64 * BLOCK)))
    ahead = cache.plan(_plan(blob, 64))
    wait_until(store.gets)
    cache.close()
    assert ahead.ahead_bytes == 0


def _epochs(blob, orders):
    steps = itertools.count()
    return [
        PlannedRead(blob, block * BLOCK, (block + 1) * BLOCK, next(steps), epoch)
        for epoch, order in enumerate(orders)
        for block in order
    ]


@pytest.fixture
def limited(tmp_path):
    config = CacheConfig(dir=tmp_path / "c", block_bytes=BLOCK, next_epoch_bytes=4 * BLOCK)
    with Cache(config) as cache:
        yield cache


def test_the_next_epoch_enters_the_window_after_this_one_and_up_to_a_limit(limited, store, blob):
    plan = _epochs(blob, [range(20), range(20, 40), range(40, 60)])
    with limited.plan(_of(limited, plan)) as ahead:
        wait_until(lambda: ahead.ahead_bytes == 24 * BLOCK)
        wait_until(lambda: is_idle(limited))
        assert {start // BLOCK for start, _ in store.gets()} == set(range(24))
        ahead.advance(20)
        assert ahead.ahead_bytes == 4 * BLOCK
        assert len(store.gets()) == 24
        ahead.begin_epoch(1)
        wait_until(lambda: ahead.ahead_bytes == 24 * BLOCK)
        wait_until(lambda: len(store.gets()) == 44)
        ahead.begin_epoch(1)  # twice is once
        assert ahead.ahead_bytes == 24 * BLOCK


def test_what_stays_for_the_next_epoch_counts_against_the_limit(limited, blob):
    plan = _epochs(blob, [range(10), reversed(range(10)), range(10)])
    with limited.plan(_of(limited, plan)) as ahead:
        wait_until(lambda: next_epoch_count(ahead) == 4)
        wait_until(lambda: limited.buffer.held_bytes == 10 * BLOCK)
        ahead.advance(10)
        stay = {block for block in range(10) if limited.buffer.is_pinned(blob.name, block)}
        assert stay == {9, 8, 7, 6}
        assert limited.buffer.held_bytes == 4 * BLOCK
        ahead.begin_epoch(1)
        wait_until(lambda: ahead.ahead_bytes == 10 * BLOCK)


def test_each_epoch_of_a_plan_is_a_pass_over_its_objects(limited, blob):
    plan = _epochs(blob, [range(3), range(3), range(3)])
    with limited.plan(_of(limited, plan)) as ahead:
        for epoch in (1, 2):
            wait_until(lambda: planned_epoch(ahead) == epoch)  # noqa: B023 - waits with the next
            assert pass_count(limited, blob) <= epoch + 1
            ahead.advance(3 * epoch)
            ahead.begin_epoch(epoch)
        wait_until(lambda: planned_epoch(ahead) == 2)
        wait_until(lambda: pass_count(limited, blob) == 3)


def test_a_plan_that_waits_for_the_next_epoch_is_closed_at_once(limited, blob):
    ahead = limited.plan(_of(limited, _epochs(blob, [range(3), range(9), range(9)])))
    wait_until(lambda: next_epoch_count(ahead) == 4)
    ahead.close()
    assert not any(thread.name == "dp-plan" for thread in threading.enumerate())
    assert pins_of(limited) == {}


def test_plans_share_the_memory_where_the_disk_is_full(tmp_path, store):
    """What has no room on the disk must fit into memory until it is read, of all plans."""
    config = CacheConfig(
        dir=tmp_path / "c",
        block_bytes=BLOCK,
        prefetch_window_bytes=32 * BLOCK,
        prefetch_memory_bytes=16 * BLOCK,
    )
    with Cache(config) as cache:
        blob = cache.open(store, store.put("big", os.urandom(64 * BLOCK)))
        keep_full(cache.working_sets.join(blob.name, None, 1))
        other = cache.plan([])
        with cache.plan(_plan(blob, 64)) as ahead:
            wait_until(lambda: ahead.ahead_bytes == 8 * BLOCK)
            wait_until(lambda: len(store.gets()) == 8)
            other.close()
            other.close()
            ahead.advance(1)
            wait_until(lambda: ahead.ahead_bytes == 16 * BLOCK)


def _of(cache, plan):
    """The same plan through another cache of the store."""
    blobs = {}
    for read in plan:
        source = blobs.setdefault(read.source.name, cache.open(read.source.store, read.source.info))
        yield replace(read, source=source)
