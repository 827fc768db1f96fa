"""What tests look at inside of a cache: the one place that knows how it is built."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from dataplane.cache import Cache, CachedObject
from dataplane.cache.disk import host_semaphore, locks
from dataplane.cache.disk.host_semaphore import HostSemaphore
from dataplane.cache.disk.session import Session
from dataplane.cache.entries.open_entries import Entry
from dataplane.cache.eviction.working_set import WorkingSet
from dataplane.cache.fetch.scheduler import Job, Scheduler
from dataplane.cache.maintenance import verify
from dataplane.cache.plan import Plan

LOOK_S = host_semaphore._LOOK_S
"""Time between two looks for a free slot at a store."""
PATIENCE_S = host_semaphore._PATIENCE_S
"""Time after which a request goes ahead without a slot."""


def entry_of(cache: Cache, blob: CachedObject) -> Entry:
    """The open entry of an object."""
    entry = cache.entry(blob.name, blob.spec)
    assert entry is not None
    return entry


def session_of(cache: Cache) -> Session:
    """The stay in its directory."""
    assert cache.guard.current is not None
    return cache.guard.current.session


def scheduler_of(cache: Cache) -> Scheduler:
    """Its downloads."""
    return cache._downloader.scheduler


def jobs_of(cache: Cache) -> dict[tuple[str, int], Job]:
    """The downloads that are asked for and not done, by block."""
    return scheduler_of(cache)._jobs


def is_idle(cache: Cache) -> bool:
    """Whether nothing is downloaded or written."""
    return not jobs_of(cache)


def pins_of(cache: Cache) -> dict[tuple[str, int], int]:
    """How many plans await each block."""
    return cache.buffer._counts


def plan_count(cache: Cache) -> int:
    """The number of plans that are not closed."""
    return cache.buffer._plans


def pins_lock(cache: Cache) -> AbstractContextManager[object]:
    """The lock of what the plans await."""
    return cache.buffer._lock


def jobs_lock(cache: Cache) -> AbstractContextManager[object]:
    """The lock of the downloads."""
    return scheduler_of(cache)._condition


def queued_count(cache: Cache) -> int:
    """The number of downloads that have not begun."""
    return scheduler_of(cache)._queued


def downloads_of(plan: Plan) -> dict[tuple[str, int], Job]:
    """The downloads that a plan has asked for and that are not done, by block."""
    return plan._jobs


def needs_blocks(plan: Plan, step: int) -> bool:
    """Whether blocks of a step are in the window of a plan."""
    return step in plan._by_step


def next_epoch_count(plan: Plan) -> int:
    """The number of blocks in the window of a plan for the epoch after the present one."""
    return len(plan._next_epoch)


def planned_epoch(plan: Plan) -> int:
    """The epoch that a plan has come to; its reader may be in the one before."""
    return plan._planned_epoch


def set_step_time(plan: Plan, step_s: float) -> None:
    """A reader that takes so long per step, as far as its plan knows."""
    plan._deadlines._step_s = step_s


def pass_count(cache: Cache, blob: CachedObject) -> int:
    """The number of passes over an object that its working set remembers."""
    working_set = cache.working_sets.of(blob.name)
    assert working_set is not None
    return len(working_set._starts)


def keep_full(working_set: WorkingSet) -> None:
    """A working set for which the cache has no room any more, however long one waits."""
    working_set._full_until_s = working_set._full_for_guests_until_s = float("inf")


def waiting_count(semaphore: HostSemaphore, store: str) -> int:
    """The number of requests that wait for a slot at a store."""
    queue = semaphore._queues.get(store)
    return 0 if queue is None else len(queue._waiting)


def slots_of(semaphore: HostSemaphore, store: str) -> set[int]:
    """The slots at a store that a process has."""
    return semaphore._queues[store]._mine


def is_looking(semaphore: HostSemaphore, store: str) -> bool:
    """Whether a process has a thread that looks for slots at a store."""
    return semaphore._queues[store]._thread is not None


def turn_of(semaphore: HostSemaphore, store: str) -> locks.LockByte:
    """The byte whose lock is the turn at a store."""
    return semaphore._queues[store]._byte(host_semaphore._TURN)


def slot_looks(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The looks for a free slot from now on, of all processes, by what they find."""
    looks: list[int | None] = []
    find = host_semaphore._Queue._find_locked

    def noted(queue: host_semaphore._Queue) -> int | None:
        found = find(queue)
        looks.append(found)
        return found

    monkeypatch.setattr(host_semaphore._Queue, "_find_locked", noted)
    return looks


def set_patience(monkeypatch: pytest.MonkeyPatch, patience_s: float) -> None:
    """Requests that go ahead without a slot after another time than `PATIENCE_S`."""
    monkeypatch.setattr(host_semaphore, "_PATIENCE_S", patience_s)


def call_before_checks(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """A call, with the place of the block, before `verify` reads any block."""
    read = verify._read

    def later(fd: int, start: int, out: memoryview) -> int:
        act(start)
        return read(fd, start, out)

    monkeypatch.setattr(verify, "_read", later)
