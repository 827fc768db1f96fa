"""Plans and readers of one process share its downloads by need, whoever came first."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dataplane.cache import Cache, CacheConfig, PlannedRead, deadlines
from tests.cache.fakes import BLOCK, FolderStore, wait_until


@pytest.fixture
def slow(store):
    return FolderStore(store.folder, delay_s=0.005)


@pytest.fixture
def narrow(tmp_path):
    """A cache with one download at a time, of one block each."""
    config = CacheConfig(
        dir=tmp_path / "cache", block_bytes=BLOCK, fetch_threads=1, request_bytes=BLOCK
    )
    with Cache(config) as cache:
        yield cache


def _blob(cache, store, key, blocks):
    return cache.open(store, store.put(key, os.urandom(blocks * BLOCK)))


def _plan(blob, stop, start=0):
    return [
        PlannedRead(blob, block * BLOCK, (block + 1) * BLOCK, step)
        for step, block in enumerate(range(start, stop))
    ]


def _resident(blob):
    return blob.resident_bytes() // BLOCK


def test_two_plans_get_equal_shares(narrow, slow):
    first, second = _blob(narrow, slow, "a", 200), _blob(narrow, slow, "b", 200)
    with narrow.plan(_plan(first, 200)):
        wait_until(lambda: _resident(first) >= 20)
        began = _resident(first)
        with narrow.plan(_plan(second, 200)):
            wait_until(lambda: _resident(second) >= 60)
            # What was queued before the second came is ahead of it, and no more than that.
            assert 60 / 2 <= _resident(first) - began <= 60 + 2 * narrow_queue(narrow)


def narrow_queue(cache):
    """How many blocks a plan keeps in the queue."""
    return 4 * cache.config.fetch_threads


def test_a_plan_whose_reader_needs_it_sooner_goes_first(narrow, slow):
    far, near = _blob(narrow, slow, "far", 300), _blob(narrow, slow, "near", 20)
    with narrow.plan(_plan(far, 300)) as ahead:
        # A reader that takes five seconds per step.
        ahead._deadlines._step_s = 5.0
        wait_until(lambda: _resident(far) >= 20)
        with narrow.plan(_plan(near, 20)):
            before = _resident(far)
            wait_until(lambda: _resident(near) == 20)
            assert _resident(far) - before <= narrow_queue(narrow)


def test_a_crowd_of_readers_does_not_keep_a_plan_waiting_for_ever(narrow, slow, monkeypatch):
    monkeypatch.setattr(deadlines, "LEAST_S", 0.05)
    planned, crowded = _blob(narrow, slow, "p", 10), _blob(narrow, slow, "c", 4000)
    over = threading.Event()
    blocks = iter(range(4000))

    def read() -> None:
        while not over.is_set():
            block = next(blocks)
            crowded.read(block * BLOCK, (block + 1) * BLOCK)

    with ThreadPoolExecutor(12) as pool:
        readers = [pool.submit(read) for _ in range(12)]
        try:
            wait_until(lambda: _resident(crowded) > 20)
            with narrow.plan(_plan(planned, 10)):
                wait_until(lambda: _resident(planned) == 10)
                assert _resident(crowded) < 3900  # the crowd was there all the while
        finally:
            over.set()
        for reader in readers:
            reader.result(30)


def test_readers_get_through_while_plans_keep_all_threads_busy(narrow, slow):
    plans = [_blob(narrow, slow, key, 300) for key in "ab"]
    urgent = _blob(narrow, slow, "u", 10)
    with narrow.plan(_plan(plans[0], 300)), narrow.plan(_plan(plans[1], 300)):
        wait_until(lambda: all(_resident(blob) >= 10 for blob in plans))
        for block in range(10):
            before = len(slow.gets())
            urgent.read(block * BLOCK, (block + 1) * BLOCK)
            # The one that was under way, its own, and what began as it returned.
            assert len(slow.gets()) - before <= 4
        assert any(_resident(blob) < 300 for blob in plans)
