"""Small blocks are received, written and settled several at a time: here by three."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from dataplane.cache import Cache, PlannedRead
from dataplane.cache.eviction.budget import Budget
from dataplane.cache.fetch import download
from dataplane.errors import StoreError
from tests.cache.fakes import (
    BLOCK,
    StreamingStore,
    assert_counted,
    read_all,
    streaming_store,
    wait_until,
)
from tests.cache.inside import entry_of, is_idle


@pytest.fixture
def content():
    return os.urandom(20 * BLOCK + 77)


@pytest.fixture(autouse=True)
def by_threes(monkeypatch):
    monkeypatch.setattr(download, "_PIECE_BYTES", 4 * BLOCK - 1)


def test_each_is_what_it_should_be(one_thread, store, content):
    seen = []
    with Cache(one_thread) as cache:
        blob = cache.open(streaming_store(store, before=seen.append), store.put("a", content))
        with cache.plan([PlannedRead(blob, 0, len(content), 0)]):
            wait_until(blob.is_complete)
            blocks = cache.held(blob.name)
            assert {n: bytes(block) for n, block in blocks.items()} == {
                n: content[n * BLOCK : (n + 1) * BLOCK] for n in range(21)
            }
        assert cache.counters["cache_fetches"] == 21
        assert cache.counters["cache_fetch_bytes"] == len(content)
        assert_counted(one_thread.dir, cache.usage_bytes())
    assert seen == [*range(0, len(content), 3 * BLOCK)]
    with Cache(one_thread) as later:  # from the disk
        assert read_all(later.open(store, blob.info)) == content
    assert store.requests() == [(0, len(content))]


def test_a_failure_costs_those_that_would_have_come_with_it(one_thread, store, content):
    failing = [True]

    def before(position: int) -> None:
        if position >= 6 * BLOCK and failing:
            raise StoreError("the connection broke")

    with Cache(one_thread) as cache:
        blob = cache.open(streaming_store(store, before=before), store.put("a", content))
        with pytest.raises(StoreError, match="broke"):
            read_all(blob)
        assert blob.resident_bytes() == 6 * BLOCK
        failing.clear()
        assert read_all(blob) == content
        assert store.requests() == [(0, len(content)), (6 * BLOCK, len(content))]


def test_a_stream_that_ends_within_a_block_is_an_error(one_thread, store, content):
    class Short(StreamingStore):
        def stream_range(self, key, start, stop, *, piece_bytes, if_match=None):
            yield self.get_range(key, start, start + 3 * BLOCK - 5, if_match=if_match)

    with Cache(one_thread) as cache:
        blob = cache.open(Short(store.folder), store.put("a", content))
        with pytest.raises(StoreError, match=f"expected {3 * BLOCK} bytes, got {3 * BLOCK - 5}"):
            read_all(blob)
        assert blob.resident_bytes() == 0


def test_room_for_some_is_used(one_thread, store, content, monkeypatch):
    left = [2 * BLOCK]

    def reserve(budget, length, working_set=None, *, is_guest=False):
        there = length <= left[0]
        left[0] -= length if there else 0
        return there and real(budget, length, working_set, is_guest=is_guest)

    with Cache(one_thread) as cache:
        blob = cache.open(streaming_store(store), store.put("a", content))
        entry_of(cache, blob)  # its files have their room
        real = Budget.reserve
        monkeypatch.setattr(Budget, "reserve", reserve)
        monkeypatch.setattr(Budget, "reserve_free", lambda budget, length: False)
        assert blob.read(0, 6 * BLOCK) == content[: 6 * BLOCK]
        assert blob.resident_bytes() == 2 * BLOCK
        assert cache.counters["cache_uncached_blocks"] == 4
        assert_counted(one_thread.dir, cache.usage_bytes())


def test_a_disk_that_takes_some_gets_some(one_thread, store, content):
    """A write of several fails whole; then each is written for itself."""
    with Cache(one_thread) as cache:
        blob = cache.open(streaming_store(store), store.put("a", content))
        entry = entry_of(cache, blob)

        class Refusing:
            def __getattr__(self, name):
                return getattr(entry.blocks, name)

            def commit(self, block, content, *, direct=False):
                if memoryview(content).nbytes > BLOCK or block == 1:
                    raise OSError(5, "Input/output error")
                entry.blocks.commit(block, content, direct=direct)

        broken = replace(entry, blocks=Refusing())
        jobs = cache.submit(broken, blob.store, blob.info, range(3))
        got = b"".join(bytes(job.future.result(20)) for job in jobs)
        assert got == content[: 3 * BLOCK]
        wait_until(lambda: is_idle(cache))
        assert entry.blocks.resident_bytes() == 2 * BLOCK
        assert cache.counters["cache_uncached_blocks"] == 1
        assert_counted(one_thread.dir, entry.budget.used_bytes)


def test_one_that_comes_between_the_look_and_the_claim_is_not_written_over(
    one_thread, store, content
):
    with Cache(one_thread) as cache, Cache(one_thread) as other:
        info = store.put("a", content)
        blob, theirs = cache.open(streaming_store(store), info), other.open(store, info)
        entry = entry_of(cache, blob)

        class Late:
            def __getattr__(self, name):
                return getattr(entry.blocks, name)

            def try_claim(self, block, count=1):
                theirs.read(2 * BLOCK, 3 * BLOCK)
                return entry.blocks.try_claim(block, count)

        jobs = cache.submit(replace(entry, blocks=Late()), blob.store, info, range(5))
        for job in jobs:
            job.future.result(20)
        wait_until(lambda: is_idle(cache))
        assert read_all(blob)[: 5 * BLOCK] == content[: 5 * BLOCK]
        ranges = [(2 * BLOCK, 3 * BLOCK), (0, 2 * BLOCK), (3 * BLOCK, 5 * BLOCK)]
        assert store.requests()[:3] == ranges
        assert_counted(one_thread.dir, cache.usage_bytes())


def test_room_for_all_is_taken_at_once_and_evicts_nothing(one_thread, store, content, monkeypatch):
    real, lengths = Budget.reserve, []

    def reserve(budget, length, working_set=None, *, is_guest=False):
        lengths.append(length)
        return real(budget, length, working_set, is_guest=is_guest)

    small = replace(one_thread, size_bytes=24 * BLOCK)
    with Cache(small) as cache:
        first = cache.open(streaming_store(store), store.put("a", content[: 12 * BLOCK]))
        assert read_all(first) == content[: 12 * BLOCK]
        budget = entry_of(cache, first).budget
        used = budget.used_bytes
        assert not budget.reserve_free(12 * BLOCK)
        assert budget.used_bytes == used
        assert budget.reserve_free(2 * BLOCK)
        assert budget.used_bytes == used + 2 * BLOCK
        budget.release(2 * BLOCK)
        assert first.is_complete()
        second = cache.open(streaming_store(store), store.put("b", content))
        entry_of(cache, second)  # its files have their room
        monkeypatch.setattr(Budget, "reserve", reserve)
        assert read_all(second) == content
        assert max(lengths) == BLOCK  # what evicts is one block
        assert not first.is_complete()
        assert_counted(one_thread.dir, cache.usage_bytes())


def test_room_is_given_back_when_it_cannot_be_looked_for(one_thread, store, content, monkeypatch):
    with Cache(one_thread) as cache:
        blob = cache.open(streaming_store(store), store.put("a", content))
        budget = entry_of(cache, blob).budget
        used = budget.used_bytes
        looks = []

        def failing(*_):
            looks.append(1)
            if len(looks) > 1:
                raise OSError(5, "Input/output error")
            return -1

        monkeypatch.setattr(Budget, "_excess", failing)
        with pytest.raises(OSError, match="Input/output"):
            budget.reserve_free(3 * BLOCK)
        with pytest.raises(OSError, match="Input/output"):
            budget.reserve(BLOCK)
        monkeypatch.undo()
        assert budget.used_bytes == used


def test_a_block_that_is_kept_does_not_keep_those_that_came_with_it(one_thread, store, content):
    with Cache(one_thread) as cache:
        blob = cache.open(streaming_store(store), store.put("a", content))
        with cache.plan([PlannedRead(blob, 0, 9 * BLOCK, 0)]):
            wait_until(lambda: len(cache.held(blob.name)) == 9)
            arrays = [np.frombuffer(block, "u1") for block in cache.held(blob.name).values()]
        assert all(array.nbytes == BLOCK for array in arrays)
        memory = [memory_of(array).nbytes for array in arrays]
        assert max(memory) < 2 * BLOCK


def memory_of(array: np.ndarray) -> np.ndarray:
    """The array or buffer at the end of the chain of views."""
    while isinstance(array.base, np.ndarray | memoryview):
        base = array.base
        array = base if isinstance(base, np.ndarray) else np.asarray(base.obj)
    return array
