"""Blocks that follow each other come with one request, and each is ready as soon as it is there."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from dataplane.cache import Cache, CacheConfig, PlannedRead, PlannedTable
from dataplane.cache.fetch import scheduler
from dataplane.errors import CacheError, ObjectChanged, StoreError
from tests.cache.fakes import BLOCK, FolderStore, read_all, wait_until
from tests.cache.inside import (
    entry_of,
    is_idle,
    jobs_of,
    queued_count,
    scheduler_of,
    session_of,
)


@dataclass(frozen=True)
class StreamingStore(FolderStore):
    """Says which byte comes next before each piece, and where a stream ended."""

    before: Callable[[int], None] = field(default=lambda position: None, compare=False)
    closed: list[int] = field(default_factory=list, compare=False)

    def stream_range(self, key, start, stop, *, piece_bytes, if_match=None) -> Iterator[bytes]:
        content = self.get_range(key, start, stop, if_match=if_match)
        position = start
        try:
            for position in range(start, stop, piece_bytes):
                self.before(position)
                yield content[position - start : position - start + piece_bytes]
            position = stop
        finally:
            self.closed.append(position)


@pytest.fixture
def config(tmp_path):
    return CacheConfig(dir=tmp_path / "cache", block_bytes=BLOCK, fetch_threads=1)


@pytest.fixture
def content():
    return os.urandom(20 * BLOCK + 77)


def _plan(blob, blocks):
    return [PlannedRead(blob, n * BLOCK, (n + 1) * BLOCK, i) for i, n in enumerate(blocks)]


def _streaming(store, **options) -> StreamingStore:
    return StreamingStore(store.folder, **options)


def _stopping(store, position) -> tuple[StreamingStore, threading.Event, threading.Event]:
    """Return a store whose streams stop at a byte; what says that one is there; what lets it on."""
    at, gate = threading.Event(), threading.Event()

    def before(reached: int) -> None:
        if reached >= position:
            at.set()
            assert gate.wait(30)

    return _streaming(store, before=before), at, gate


def test_a_read_of_many_blocks_is_few_requests(config, store, content):
    streaming = _streaming(store)
    with Cache(config) as cache:
        blob = cache.open(streaming, store.put("a", content))
        assert read_all(blob) == content
        assert blob.is_complete()
        assert store.requests() == [(0, len(content))]
        assert streaming.closed == [len(content)]


def test_a_block_that_another_process_fills_meanwhile_is_read_all_the_same(config, store, content):
    """Its claim is lost, as where a reader has dropped a bad block of the same entry."""

    def before(position: int) -> None:
        if position == 0:
            session = session_of(cache)
            entry_of(cache, blob).blocks.release(0)
            other = session.files.inspect(blob.name, session.verify_tag)
            assert other.try_claim(0)
            other.commit(0, content[:BLOCK])
            other.release(0)

    with Cache(config) as cache:
        blob = cache.open(_streaming(store, before=before), store.put("a", content))
        assert read_all(blob) == content
        assert blob.is_complete()
        assert cache.counters["cache_uncached_blocks"] == 0


def test_a_request_asks_for_no_more_than_it_may(config, store, content):
    with Cache(replace(config, request_bytes=6 * BLOCK)) as cache:
        assert read_all(cache.open(_streaming(store), store.put("a", content))) == content
    lengths = [stop - start for start, stop in store.requests()]
    assert lengths == [6 * BLOCK] * 3 + [2 * BLOCK + 77]


@pytest.mark.parametrize("is_table", [False, True], ids=["reads", "table"])
def test_what_a_planned_read_lacks_comes_in_one_request_however_many_threads_wait(
    config, store, is_table
):
    """Not in one for each block that a thread was quick to take."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with Cache(replace(config, fetch_threads=8)) as cache:
            blob = cache.open(_streaming(store), store.put("a", os.urandom(64 * BLOCK)))
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


class TestTakenTogether:
    """Jobs that a worker took together, and what becomes of those that it does not begin."""

    def submitted(self, cache, blob, blocks) -> list:
        entry = entry_of(cache, blob)
        return scheduler_of(cache).submit(entry, blob.store, blob.info, blocks)

    def test_one_that_others_have_leaves_those_behind_it_to_other_threads(self, config, store):
        """They do not wait for the download of what is before it."""
        content = os.urandom(8 * BLOCK)
        streaming, at, gate = _stopping(store, 0)
        with Cache(replace(config, fetch_threads=4)) as cache:
            blob = cache.open(streaming, store.put("a", content))
            entry_of(cache, blob)
            session = session_of(cache)
            other = session.files.inspect(blob.name, session.verify_tag)
            assert other.try_claim(3)
            with ThreadPoolExecutor(1) as pool:
                read = pool.submit(blob.read, 0, 8 * BLOCK)
                assert at.wait(10)
                # The gate is shut for all: the second request has begun, too.
                wait_until(lambda: len(store.requests()) == 2)
                gate.set()
                other.commit(3, content[3 * BLOCK : 4 * BLOCK])
                other.release(3)
                assert bytes(read.result(10)) == content
            assert sorted(store.requests()) == [(0, 3 * BLOCK), (4 * BLOCK, 8 * BLOCK)]
            assert is_idle(cache)

    def test_those_that_are_there_already_are_passed_over(self, config, store):
        content = os.urandom(8 * BLOCK)
        with Cache(config) as cache:
            blob = cache.open(_streaming(store), store.put("a", content))
            entry_of(cache, blob)
            session = session_of(cache)
            other = session.files.inspect(blob.name, session.verify_tag)
            jobs = self.submitted(cache, blob, range(8))
            assert len(jobs) == 8
            for block in (0, 1, 4):
                assert other.try_claim(block)
                other.commit(block, content[block * BLOCK : (block + 1) * BLOCK])
                other.release(block)
            blob.read(7 * BLOCK, 8 * BLOCK)  # starts threads
            wait_until(lambda: is_idle(cache))
            assert all(job.future.done() for job in jobs)
            assert blob.is_complete()
            assert sorted(store.requests()) == [(2 * BLOCK, 4 * BLOCK), (5 * BLOCK, 8 * BLOCK)]

    @pytest.mark.parametrize("ends", ["an error", "close"])
    def test_none_is_forgotten(self, config, store, ends, monkeypatch):
        content = os.urandom(8 * BLOCK)
        with Cache(config) as cache:
            blob = cache.open(_streaming(store), store.put("a", content))
            scheduler = scheduler_of(cache)
            jobs = self.submitted(cache, blob, range(8))
            (request,) = itertools.islice(scheduler.requests(), 1)
            assert request.first is jobs[0]
            assert request.extend() is jobs[1]
            assert queued_count(cache) == 0
            if ends == "close":
                scheduler.close()
                assert request.extend() is None
                request.end()
                errors = [job.future.exception(1) for job in jobs]
                assert all(isinstance(error, CacheError) for error in errors)
            else:
                request.end(StoreError("gone"))
                assert [type(job.future.exception(1)) for job in jobs[:2]] == [StoreError] * 2
                assert queued_count(cache) == 6
                assert bytes(blob.read(0, 8 * BLOCK)) == content
                assert all(job.future.done() for job in jobs)
            assert is_idle(cache)


def test_requests_take_a_quarter_of_the_budget_at_most(config, store, content):
    with Cache(replace(config, size_bytes=16 * BLOCK)) as cache:
        assert read_all(cache.open(_streaming(store), store.put("a", content))) == content
    assert max(stop - start for start, stop in store.requests()) == 4 * BLOCK


def test_a_request_is_a_block_at_least(config, store, content):
    with Cache(replace(config, request_bytes=1)) as cache:
        assert read_all(cache.open(_streaming(store), store.put("a", content))) == content
    assert max(stop - start for start, stop in store.requests()) == BLOCK
    CacheConfig(dir=config.dir, block_bytes=32 << 20)  # larger than requests are by default


def test_no_thread_takes_what_others_could_do(config, store, content):
    slow = FolderStore(store.folder, delay_s=0.05)
    with Cache(replace(config, fetch_threads=8)) as cache:
        assert read_all(cache.open(slow, store.put("a", content))) == content
    lengths = [(stop - start) // BLOCK for start, stop in store.requests()]
    assert len(lengths) >= 7
    assert max(lengths) <= 3


def test_a_reader_goes_on_before_the_request_is_over(config, store, content):
    streaming, _, gate = _stopping(store, 3 * BLOCK)
    with Cache(config) as cache:
        blob = cache.open(streaming, store.put("a", content))
        with cache.plan(_plan(blob, range(10))):
            assert blob.read(0, 2 * BLOCK) == content[: 2 * BLOCK]
            wait_until(lambda: blob.resident_bytes() == 3 * BLOCK)
            gate.set()
            wait_until(lambda: blob.resident_bytes() == 10 * BLOCK)
        assert blob.read(0, 10 * BLOCK) == content[: 10 * BLOCK]


def test_what_is_there_or_comes_later_in_the_plan_parts_requests(config, store, content):
    with Cache(config) as cache:
        blob = cache.open(_streaming(store), store.put("a", content))
        blob.read(2 * BLOCK, 3 * BLOCK)
        read_all(blob)
        assert store.requests() == [
            (2 * BLOCK, 3 * BLOCK),
            (0, 2 * BLOCK),
            (3 * BLOCK, len(content)),
        ]


def test_what_another_process_is_at_parts_requests(config, store, content):
    with Cache(config) as cache, Cache(config) as other:
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


def test_a_request_that_nobody_waits_for_is_given_up(config, store, content):
    streaming, at, gate = _stopping(store, 5 * BLOCK)
    with Cache(config) as cache:
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


def test_a_request_goes_on_for_one_reader(config, store, content):
    streaming, at, gate = _stopping(store, 5 * BLOCK)
    with Cache(config) as cache:
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


def test_a_plan_that_comes_while_a_request_is_given_up_gets_its_blocks(config, store, content):
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

    with Cache(config) as cache:
        blob = cache.open(SlowToClose(store.folder, before=before), store.put("a", content))
        with cache.plan(_plan(blob, range(10))):
            assert at.wait(20)
        gate.set()
        assert closing.wait(20)  # the jobs are found unwanted, and not yet dropped
        with cache.plan(_plan(blob, range(10))) as plan:
            wait_until(lambda: plan.ahead_bytes == 10 * BLOCK)
            closed.set()
            wait_until(lambda: blob.resident_bytes() == 10 * BLOCK)


def test_what_was_cancelled_makes_no_request_longer(config, store, content, monkeypatch):
    monkeypatch.setattr(scheduler, "SHARED_BYTES", BLOCK)
    streaming, _, gate = _stopping(store, 18 * BLOCK)
    with Cache(replace(config, fetch_threads=2)) as cache:
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


def test_a_block_is_shown_read_only(config, store, content):
    with Cache(config) as cache:
        blob = cache.open(store, store.put("a", content))
        with cache.plan(_plan(blob, range(4))):
            wait_until(lambda: len(cache.held(blob.name)) == 4)
            assert all(memoryview(block).readonly for block in cache.held(blob.name).values())


def test_a_failure_costs_the_blocks_behind_it_alone(config, store, content):
    failing = [True]

    def before(position: int) -> None:
        if position >= 5 * BLOCK and failing:
            raise StoreError("the connection broke")

    streaming = _streaming(store, before=before)
    with Cache(config) as cache:
        blob = cache.open(streaming, store.put("a", content))
        with pytest.raises(StoreError, match="broke"):
            read_all(blob)
        assert blob.resident_bytes() == 5 * BLOCK
        failing.clear()
        assert read_all(blob) == content
        assert store.requests() == [(0, len(content)), (5 * BLOCK, len(content))]


def test_a_stream_that_ends_early_is_an_error(config, store, content):
    class Short(StreamingStore):
        def stream_range(self, key, start, stop, *, piece_bytes, if_match=None):
            content = self.get_range(key, start, stop, if_match=if_match)
            yield content[:piece_bytes]
            yield content[piece_bytes : 2 * piece_bytes - 5]

    with Cache(config) as cache:
        blob = cache.open(Short(store.folder), store.put("a", content))
        with pytest.raises(StoreError, match=f"expected {BLOCK} bytes, got {BLOCK - 5}"):
            read_all(blob)
        assert blob.resident_bytes() == BLOCK


def test_a_stream_without_its_last_pieces_is_an_error(config, store, content):
    class Short(StreamingStore):
        def stream_range(self, key, start, stop, *, piece_bytes, if_match=None):
            yield self.get_range(key, start, start + piece_bytes, if_match=if_match)

    with Cache(config) as cache:
        blob = cache.open(Short(store.folder), store.put("a", content))
        with pytest.raises(StoreError, match=f"expected {len(content)} bytes, got {BLOCK}"):
            read_all(blob)


def test_an_object_that_was_replaced_is_an_error_for_every_block(config, store, content):
    info = store.put("a", content)
    store.put("a", content, etag="v2")
    with Cache(config) as cache:
        blob = cache.open(store, info)
        for _ in range(2):
            with pytest.raises(ObjectChanged):
                read_all(blob)
        assert blob.resident_bytes() == 0
        assert cache.usage_bytes() <= 2 * 4096


def test_a_disk_that_refuses_claims_costs_the_cache_not_the_read(config, store, content):
    with Cache(config) as cache:
        blob = cache.open(store, store.put("a", content))
        entry = entry_of(cache, blob)

        class Refusing:
            def __getattr__(self, name):
                return getattr(entry.blocks, name)

            def try_claim(self, block):
                raise OSError(5, "Input/output error")

        broken = replace(entry, blocks=Refusing())
        jobs = cache.submit(broken, blob.store, blob.info, [3, 4])
        for job, block in zip(jobs, (3, 4), strict=True):
            got = bytes(job.future.result(20))
            assert got == content[block * BLOCK : (block + 1) * BLOCK]
        assert cache.counters["cache_uncached_blocks"] == 2


def test_close_does_not_wait_for_a_place_at_the_store(config, store, content):
    limited = replace(config, host_requests=1, fetch_threads=2)
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


def test_a_job_that_was_put_off_is_looked_after_while_another_is_done(config, store, content):
    """Another process downloads block 0; the thread that waits for it must not be busy with 5."""
    info = store.put("a", content)
    stopping, _, go_on = _stopping(store, 5 * BLOCK)
    with Cache(replace(config, fetch_threads=2)) as cache, Cache(config) as other:
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
