"""Plans and readers of one process share its downloads by need, whoever came first."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from dataplane.cache import Cache, CacheConfig, CachedObject, PlannedRead
from dataplane.cache.fetch import deadlines
from dataplane.cache.plan import Plan
from tests.cache.fakes import BLOCK, FolderStore, wait_until
from tests.cache.inside import downloads_of, scheduler_of, set_step_time


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


@dataclass(frozen=True)
class GatedStore(FolderStore):
    """Writes down which object each GET is for, and answers it when it is told to."""

    order: list[str] = field(default_factory=list, compare=False)
    gate: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0), compare=False)

    def get_range(self, key: str, start: int, stop: int, *, if_match: str | None = None) -> bytes:
        self.order.append(key)
        assert self.gate.acquire(timeout=30)
        return super().get_range(key, start, stop, if_match=if_match)


QUEUED = 4  # blocks that a plan asks for at once, of a cache with one thread


class Gated:
    """Plans of blocks of one object each, whose downloads end one by one."""

    def __init__(self, cache: Cache, store: GatedStore) -> None:
        self.cache, self.store = cache, store
        self._plans: list[tuple[Plan, CachedObject, int]] = []

    def plan(self, blob: CachedObject, blocks: int, step_s: float = 0.0) -> None:
        """Begin a plan, whose reader takes so long per step, and wait until it has asked."""
        ahead = self.cache.plan(_plan(blob, blocks))
        set_step_time(ahead, step_s)
        self._plans.append((ahead, blob, blocks))
        wait_until(self._have_asked)

    def answer(self, count: int) -> None:
        """Answer requests, each when all plans have asked for what they may."""
        for _ in range(count):
            begun = len(self.store.order)
            self.store.gate.release()
            wait_until(lambda begun=begun: len(self.store.order) > begun and self._have_asked())

    def close(self) -> None:
        self.store.gate.release(10_000)
        for plan, _, _ in self._plans:
            plan.close()

    def _have_asked(self) -> bool:
        return bool(self.store.order) and all(
            len(downloads_of(plan)) == min(QUEUED, blocks - _resident(blob))
            for plan, blob, blocks in self._plans
        )


@pytest.fixture
def gated(narrow, store, monkeypatch):
    # However long this takes, nothing that is planned becomes late.
    monkeypatch.setattr(deadlines, "LEAST_S", 1000.0)
    monkeypatch.setattr(deadlines, "MOST_S", 100_000.0)
    plans = Gated(narrow, GatedStore(store.folder))
    yield plans
    plans.close()


def test_two_plans_get_equal_shares(gated):
    order = gated.store.order
    gated.plan(_blob(gated.cache, gated.store, "first", 200), 200)
    gated.answer(20)
    began = len(order)
    gated.plan(_blob(gated.cache, gated.store, "second", 200), 200)
    gated.answer(60)
    # What was queued before the second came is ahead of it, and no more than that.
    rest = order[began:]
    assert rest[: QUEUED - 1] == ["first"] * (QUEUED - 1)
    assert rest[QUEUED - 1] == "second"
    assert abs(rest.count("first") - rest.count("second")) <= QUEUED


def test_a_plan_whose_reader_needs_it_sooner_goes_first(gated):
    order = gated.store.order
    gated.plan(_blob(gated.cache, gated.store, "far", 300), 300, step_s=50_000.0)
    gated.answer(20)
    began = len(order)
    gated.plan(_blob(gated.cache, gated.store, "near", 20), 20)
    gated.answer(21)
    assert order[began:] == ["near"] * 20 + ["far"]


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


def test_readers_get_through_while_plans_keep_all_threads_busy(gated):
    order, cache = gated.store.order, gated.cache
    for key in "ab":
        gated.plan(_blob(cache, gated.store, key, 300), 300)
    gated.answer(10)
    urgent = _blob(cache, gated.store, "urgent", 10)
    with ThreadPoolExecutor(1) as pool:
        for block in range(10):
            read = pool.submit(urgent.read, block * BLOCK, (block + 1) * BLOCK)
            wait_until(lambda block=block: scheduler_of(cache).is_under_way((urgent.name, block)))
            gated.answer(2)  # the one that was under way, and its own
            assert order[-2] == "urgent"
            assert len(read.result(30)) == BLOCK
    assert order.count("urgent") == 10
