"""Blocks that follow each other come with one request, and each is ready as soon as it is there."""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest

from dataplane.cache import Cache, CacheConfig, PlannedRead, PlannedTable
from dataplane.cache.fetch import download, scheduler
from dataplane.errors import ObjectChanged, StoreError
from tests.cache.fakes import (
    BLOCK,
    StreamingStore,
    read_all,
    stopping_store,
    streaming_store,
    wait_until,
)
from tests.cache.inside import (
    entry_of,
    is_idle,
    jobs_of,
    queued_count,
    session_of,
)


@pytest.fixture
def content():
    return os.urandom(20 * BLOCK + 77)


@pytest.fixture
def block_by_block(monkeypatch):
    """Have each block received for itself, as large ones are."""
    monkeypatch.setattr(download, "_PIECE_BYTES", BLOCK)


def _plan(blob, blocks):
    return [PlannedRead(blob, n * BLOCK, (n + 1) * BLOCK, i) for i, n in enumerate(blocks)]


def test_a_read_of_many_blocks_is_few_requests(one_thread, store, content):
    streaming = streaming_store(store)
    with Cache(one_thread) as cache:
        blob = cache.open(streaming, store.put("a", content))
        assert read_all(blob) == content
        assert blob.is_complete()
        assert store.requests() == [(0, len(content))]
        assert streaming.closed == [len(content)]


def test_a_block_that_another_process_fills_meanwhile_is_read_all_the_same(
    one_thread, store, content
):
    """Its claim is lost, as where a reader has dropped a bad block of the same entry."""

    def before(position: int) -> None:
        if position == 0:
            session = session_of(cache)
            entry_of(cache, blob).blocks.release(0)
            other = session.files.inspect(blob.name, session.verify_tag)
            assert other.try_claim(0)
            other.commit(0, content[:BLOCK])
            other.release(0)

    with Cache(one_thread) as cache:
        blob = cache.open(streaming_store(store, before=before), store.put("a", content))
        assert read_all(blob) == content
        assert blob.is_complete()
        assert cache.counters["cache_uncached_blocks"] == 0


def test_a_request_asks_for_no_more_than_it_may(one_thread, store, content):
    with Cache(replace(one_thread, request_bytes=6 * BLOCK)) as cache:
        assert read_all(cache.open(streaming_store(store), store.put("a", content))) == content
    lengths = [stop - start for start, stop in store.requests()]
    assert lengths == [6 * BLOCK] * 3 + [2 * BLOCK + 77]


@pytest.mark.parametrize("is_table", [False, True], ids=["reads", "table"])
def test_what_a_planned_read_lacks_comes_in_one_request_however_many_threads_wait(
    one_thread, store, is_table
):
    """Not in one for each block that a thread was quick to take."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with Cache(replace(one_thread, fetch_threads=8)) as cache:
            blob = cache.open(streaming_store(store), store.put("a", os.urandom(64 * BLOCK)))
            for first in (0, 5):  # threads are started; then they are idle
                starts = [block * BLOCK for block in range(first, 60, 10)]
                reads = [
                    PlannedRead(blob, start, start + 5 * BLOCK, step)
                    for step, start in enumerate(starts)
                ]
                if is_table:
                    begin, steps = np.array(starts, np.uint64), np.arange(len(starts))
                    end = begin + np.uint64(5 * BLOCK)
                    reads = [PlannedTable([blob], np.zeros(len(starts), int), begin, end, steps, 0)]
                asked, there = len(store.requests()), blob.resident_bytes() + 30 * BLOCK
                with cache.plan(reads):
                    wait_until(lambda there=there: blob.resident_bytes() == there)
                requests = sorted(store.requests()[asked:])
                assert requests == [(start, start + 5 * BLOCK) for start in starts]
    finally:
        sys.setswitchinterval(before)


def test_requests_take_a_quarter_of_the_budget_at_most(one_thread, store, content):
    with Cache(replace(one_thread, size_bytes=16 * BLOCK)) as cache:
        assert read_all(cache.open(streaming_store(store), store.put("a", content))) == content
    assert max(stop - start for start, stop in store.requests()) == 4 * BLOCK


def test_a_request_is_a_block_at_least(one_thread, store, content):
    with Cache(replace(one_thread, request_bytes=1)) as cache:
        assert read_all(cache.open(streaming_store(store), store.put("a", content))) == content
    assert max(stop - start for start, stop in store.requests()) == BLOCK
    CacheConfig(dir=one_thread.dir, block_bytes=32 << 20)  # larger than requests are by default


def test_no_thread_takes_what_others_could_do(one_thread, store, content, monkeypatch):
    monkeypatch.setattr(scheduler, "SHARED_BYTES", BLOCK)
    slow = streaming_store(store, before=lambda position: time.sleep(0.05))
    with Cache(replace(one_thread, fetch_threads=8)) as cache:
        assert read_all(cache.open(slow, store.put("a", content))) == content
    lengths = [(stop - start) // BLOCK for start, stop in store.requests()]
    assert len(lengths) >= 7
    assert max(lengths) <= 3


@pytest.mark.usefixtures("block_by_block")
def test_a_reader_goes_on_before_the_request_is_over(one_thread, store, content):
    streaming, _, gate = stopping_store(store, 3 * BLOCK)
    with Cache(one_thread) as cache:
        blob = cache.open(streaming, store.put("a", content))
        with cache.plan(_plan(blob, range(10))):
            assert blob.read(0, 2 * BLOCK) == content[: 2 * BLOCK]
            wait_until(lambda: blob.resident_bytes() == 3 * BLOCK)
            gate.set()
            wait_until(lambda: blob.resident_bytes() == 10 * BLOCK)
        assert blob.read(0, 10 * BLOCK) == content[: 10 * BLOCK]


def test_what_is_there_or_comes_later_in_the_plan_parts_requests(one_thread, store, content):
    with Cache(one_thread) as cache:
        blob = cache.open(streaming_store(store), store.put("a", content))
        blob.read(2 * BLOCK, 3 * BLOCK)
        read_all(blob)
        assert store.requests() == [
            (2 * BLOCK, 3 * BLOCK),
            (0, 2 * BLOCK),
            (3 * BLOCK, len(content)),
        ]


def test_what_another_process_is_at_parts_requests(one_thread, store, content):
    with Cache(one_thread) as cache, Cache(one_thread) as other:
        info = store.put("a", content)
        blob, theirs = cache.open(store, info), other.open(store, info)
        blocks = entry_of(other, theirs).blocks
        assert blocks.try_claim(4)
        results = []
        reader = threading.Thread(target=lambda: results.append(read_all(blob)))
        reader.start()
        wait_until(lambda: blob.resident_bytes() == len(content) - BLOCK)
        assert results == []
        blocks.release(4)
        reader.join(20)
        assert results == [content]
        assert (4 * BLOCK, 5 * BLOCK) in store.requests()


@pytest.mark.usefixtures("block_by_block")
def test_a_request_that_nobody_waits_for_is_given_up(one_thread, store, content):
    streaming, at, gate = stopping_store(store, 5 * BLOCK)
    with Cache(one_thread) as cache:
        blob = cache.open(streaming, store.put("a", content))
        with cache.plan(_plan(blob, range(15))):
            assert at.wait(20)
        gate.set()
        wait_until(lambda: streaming.closed and is_idle(cache))
        assert 5 * BLOCK <= streaming.closed[-1] <= 6 * BLOCK
        assert blob.resident_bytes() == 6 * BLOCK
        assert cache.counters["cache_fetch_errors"] == 0
        streaming.closed.clear()
        assert read_all(blob) == content
        assert blob.is_complete()


@pytest.mark.usefixtures("block_by_block")
def test_a_request_goes_on_for_one_reader(one_thread, store, content):
    streaming, at, gate = stopping_store(store, 5 * BLOCK)
    with Cache(one_thread) as cache:
        blob = cache.open(streaming, store.put("a", content))
        results = []
        with cache.plan(_plan(blob, range(10))):
            assert at.wait(20)
            reader = threading.Thread(
                target=lambda: results.append(blob.read(8 * BLOCK, 9 * BLOCK))
            )
            reader.start()
            wait_until(lambda: jobs_of(cache)[blob.name, 8].demand)
        gate.set()
        reader.join(20)
        assert results == [content[8 * BLOCK : 9 * BLOCK]]
        wait_until(lambda: is_idle(cache))
        assert blob.resident_bytes() == 9 * BLOCK  # and the tenth was given up


@pytest.mark.usefixtures("block_by_block")
def test_a_plan_that_comes_while_a_request_is_given_up_gets_its_blocks(one_thread, store, content):
    at, gate, closing, closed = (threading.Event() for _ in range(4))

    @dataclass(frozen=True)
    class SlowToClose(StreamingStore):
        def stream_range(self, key, start, stop, *, piece_bytes, if_match=None):
            try:
                yield from super().stream_range(
                    key, start, stop, piece_bytes=piece_bytes, if_match=if_match
                )
            finally:
                if at.is_set():
                    closing.set()
                    assert closed.wait(30)

    def before(position: int) -> None:
        if position == 2 * BLOCK and not at.is_set():
            at.set()
            assert gate.wait(30)

    with Cache(one_thread) as cache:
        blob = cache.open(SlowToClose(store.folder, before=before), store.put("a", content))
        with cache.plan(_plan(blob, range(10))):
            assert at.wait(20)
        gate.set()
        assert closing.wait(20)  # the jobs are found unwanted, and not yet dropped
        with cache.plan(_plan(blob, range(10))) as plan:
            wait_until(lambda: plan.ahead_bytes == 10 * BLOCK)
            closed.set()
            wait_until(lambda: blob.resident_bytes() == 10 * BLOCK)


def test_what_was_cancelled_makes_no_request_longer(one_thread, store, content, monkeypatch):
    monkeypatch.setattr(scheduler, "SHARED_BYTES", BLOCK)
    streaming, _, gate = stopping_store(store, 18 * BLOCK)
    with Cache(replace(one_thread, fetch_threads=2)) as cache:
        blob = cache.open(streaming, store.put("a", content))
        with cache.plan(_plan(blob, [18, 20])):  # keeps both threads busy
            wait_until(lambda: len(store.requests()) == 2)
            with cache.plan(_plan(blob, range(16))):
                wait_until(lambda: queued_count(cache) == 16)
            results = []
            reader = threading.Thread(
                target=lambda: results.append(blob.read(8 * BLOCK, 12 * BLOCK))
            )
            reader.start()
            wait_until(lambda: queued_count(cache) == 4)
            gate.set()
            reader.join(20)
        assert results == [content[8 * BLOCK : 12 * BLOCK]]
    assert max(stop - start for start, stop in store.requests()) == 2 * BLOCK


def test_a_block_is_shown_read_only(one_thread, store, content):
    with Cache(one_thread) as cache:
        blob = cache.open(store, store.put("a", content))
        with cache.plan(_plan(blob, range(4))):
            wait_until(lambda: len(cache.held(blob.name)) == 4)
            assert all(memoryview(block).readonly for block in cache.held(blob.name).values())


@pytest.mark.usefixtures("block_by_block")
def test_a_failure_costs_the_blocks_behind_it_alone(one_thread, store, content):
    failing = [True]

    def before(position: int) -> None:
        if position >= 5 * BLOCK and failing:
            raise StoreError("the connection broke")

    streaming = streaming_store(store, before=before)
    with Cache(one_thread) as cache:
        blob = cache.open(streaming, store.put("a", content))
        with pytest.raises(StoreError, match="broke"):
            read_all(blob)
        assert blob.resident_bytes() == 5 * BLOCK
        failing.clear()
        assert read_all(blob) == content
        assert store.requests() == [(0, len(content)), (5 * BLOCK, len(content))]


@pytest.mark.usefixtures("block_by_block")
def test_a_stream_that_ends_early_is_an_error(one_thread, store, content):
    class Short(StreamingStore):
        def stream_range(self, key, start, stop, *, piece_bytes, if_match=None):
            content = self.get_range(key, start, stop, if_match=if_match)
            yield content[:piece_bytes]
            yield content[piece_bytes : 2 * piece_bytes - 5]

    with Cache(one_thread) as cache:
        blob = cache.open(Short(store.folder), store.put("a", content))
        with pytest.raises(StoreError, match=f"expected {BLOCK} bytes, got {BLOCK - 5}"):
            read_all(blob)
        assert blob.resident_bytes() == BLOCK


@pytest.mark.usefixtures("block_by_block")
def test_a_stream_without_its_last_pieces_is_an_error(one_thread, store, content):
    class Short(StreamingStore):
        def stream_range(self, key, start, stop, *, piece_bytes, if_match=None):
            yield self.get_range(key, start, start + piece_bytes, if_match=if_match)

    with Cache(one_thread) as cache:
        blob = cache.open(Short(store.folder), store.put("a", content))
        with pytest.raises(StoreError, match=f"expected {len(content)} bytes, got {BLOCK}"):
            read_all(blob)


def test_an_object_that_was_replaced_is_an_error_for_every_block(one_thread, store, content):
    info = store.put("a", content)
    store.put("a", content, etag="v2")
    with Cache(one_thread) as cache:
        blob = cache.open(store, info)
        for _ in range(2):
            with pytest.raises(ObjectChanged):
                read_all(blob)
        assert blob.resident_bytes() == 0
        assert cache.usage_bytes() <= 2 * 4096


def test_a_disk_that_refuses_claims_costs_the_cache_not_the_read(one_thread, store, content):
    with Cache(one_thread) as cache:
        blob = cache.open(store, store.put("a", content))
        entry = entry_of(cache, blob)

        class Refusing:
            def __getattr__(self, name):
                return getattr(entry.blocks, name)

            def try_claim(self, block, count=1):
                raise OSError(5, "Input/output error")

        broken = replace(entry, blocks=Refusing())
        jobs = cache.submit(broken, blob.store, blob.info, [3, 4])
        for job, block in zip(jobs, (3, 4), strict=True):
            got = bytes(job.future.result(20))
            assert got == content[block * BLOCK : (block + 1) * BLOCK]
        assert cache.counters["cache_uncached_blocks"] == 2


def test_close_does_not_wait_for_a_place_at_the_store(one_thread, store, content):
    limited = replace(one_thread, host_requests=1, fetch_threads=2)
    with Cache(limited) as other:
        elsewhere = other.open(store, store.put("b", content))
        entry_of(other, elsewhere)
        with other.guard.slot_at(store.identity):
            cache = Cache(limited)
            blob = cache.open(store, store.put("a", content))
            plan = cache.plan(_plan(blob, range(10)))
            wait_until(lambda: plan.ahead_bytes == 10 * BLOCK)
            begun_s = time.monotonic()
            cache.close()
            assert time.monotonic() - begun_s < 5
    assert store.requests() == []


def test_a_job_that_was_put_off_is_looked_after_while_another_is_done(one_thread, store, content):
    """Another process downloads block 0; the thread that waits for it must not be busy with 5."""
    info = store.put("a", content)
    stopping, _, go_on = stopping_store(store, 5 * BLOCK)
    with Cache(replace(one_thread, fetch_threads=2)) as cache, Cache(one_thread) as other:
        blob = cache.open(stopping, info)
        theirs = entry_of(other, other.open(store, info)).blocks
        assert theirs.try_claim(0)
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(blob.read, 0, BLOCK)
            wait_until(lambda: (job := jobs_of(cache).get((blob.name, 0))) and job.tries)
            second = pool.submit(blob.read, 5 * BLOCK, 6 * BLOCK)
            try:
                wait_until(lambda: (blob.name, 5) in jobs_of(cache))
                theirs.commit(0, content[:BLOCK])
                theirs.release(0)
                assert bytes(first.result(20)) == content[:BLOCK]
                assert not second.done()
            finally:
                go_on.set()
            assert bytes(second.result(20)) == content[5 * BLOCK : 6 * BLOCK]
