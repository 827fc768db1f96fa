"""Download threads and the sharing of downloads: one job per missing block of this process.

Readers and plans ask for blocks; whoever asks for a block that is already under way gets the same
future. Jobs of readers go first, jobs of plans follow in their order, and a reader that asks for a
planned block that is still waiting moves it to the front. What a job does is given by the owner
(`attempt`): it returns the block, or `TryLater` because another process is downloading it; the
thread takes other jobs meanwhile.

Threads are named dp-fetch-N, start with the first job and end with `close`. After a fork the child
calls `reset`. Thread-safe; one lock, held for bookkeeping only.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from dataplane.cache.entries import Entry
from dataplane.errors import CacheError
from dataplane.stores.base import Buffer, ObjectInfo, Store

__all__ = ["BlockKey", "Fetcher", "Job", "TryLater"]

BlockKey: TypeAlias = tuple[str, int]
"""An entry's name and the index of one of its blocks."""

_JOIN_S = 10.0  # for a thread that is in the middle of a download


class _State(Enum):
    WAITING = 0
    RUNNING = 1
    OVER = 2


@dataclass(eq=False, slots=True)
class Job:
    """One block to download.

    Attributes:
        key: the block.
        entry: its entry, kept open by the job.
        store: where the object is.
        info: the object version.
        future: the block's bytes, or None when another process had them put into the cache.
        demand: a reader waits for it; a job without one may be cancelled.
        tries: how often another process was found to be at it.
    """

    key: BlockKey
    entry: Entry
    store: Store
    info: ObjectInfo
    future: Future[Buffer | None] = field(default_factory=Future)
    demand: bool = False
    tries: int = 0
    state: _State = _State.WAITING

    def deliver(self, content: Buffer | None) -> None:
        """Give those who wait what they wait for; the job itself may go on."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(content)


@dataclass(frozen=True, slots=True)
class TryLater:
    """Another process is downloading the block: look again after `delay_s` seconds."""

    delay_s: float


class Fetcher:
    """The download threads of one cache, and the jobs that they share out.

    Args:
        threads: how many downloads may be under way at once.
        attempt: does one job. Returns what the job's future shall hold, or when to try again; what
            it raises goes to everyone who waits for the job.
    """

    def __init__(self, threads: int, attempt: Callable[[Job], Buffer | TryLater | None]) -> None:
        self._thread_count = threads
        self._attempt = attempt
        self.reset()

    def reset(self) -> None:
        """Forget all jobs and threads, which a forked child does not have."""
        self._condition = threading.Condition()
        self._jobs: dict[BlockKey, Job] = {}
        self._ready: list[tuple[bool, int, Job]] = []
        self._later: list[tuple[float, int, Job]] = []
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._sequence = 0
        self._closed = False

    def submit(
        self,
        key: BlockKey,
        entry: Entry,
        store: Store,
        info: ObjectInfo,
        *,
        demand: bool,
    ) -> Job:
        """Ask for a block; joins the job that is under way for it, if any.

        Raises:
            CacheError: the cache is closed.
        """
        with self._condition:
            if self._closed:
                raise CacheError("the cache is closed")
            job = self._jobs.get(key)
            if job is not None:
                if demand and not job.demand:
                    job.demand = True
                    if job.state is _State.WAITING:
                        self._queue_locked(job)
                return job
            job = Job(key, entry, store, info, demand=demand)
            self._jobs[key] = job
            self._queue_locked(job)
            if len(self._ready) > self._idle and len(self._threads) < self._thread_count:
                self._start_thread_locked()
            return job

    def is_under_way(self, key: BlockKey) -> bool:
        """Whether this process has a job for the block."""
        with self._condition:
            return key in self._jobs

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Drop jobs that no reader waits for and that have not begun."""
        dropped = []
        with self._condition:
            for job in jobs:
                if job.state is _State.WAITING and not job.demand:
                    job.state = _State.OVER
                    del self._jobs[job.key]
                    dropped.append(job)
        for job in dropped:
            job.future.cancel()

    def close(self) -> None:
        """Cancel what has not begun, wait for what has, and end the threads. Idempotent."""
        with self._condition:
            self._closed = True
            waiting = [job for job in self._jobs.values() if job.state is _State.WAITING]
            for job in waiting:
                job.state = _State.OVER
                del self._jobs[job.key]
            self._condition.notify_all()
            threads, self._threads = self._threads, []
        for job in waiting:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(CacheError("the cache was closed during a read"))
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(_JOIN_S)

    def _queue_locked(self, job: Job) -> None:
        self._sequence += 1
        heapq.heappush(self._ready, (not job.demand, self._sequence, job))
        self._condition.notify()

    def _start_thread_locked(self) -> None:
        name = f"dp-fetch-{len(self._threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while (job := self._take()) is not None:
            self._do(job)
            del job  # its buffer must not live on in an idle thread

    def _do(self, job: Job) -> None:
        try:
            result = self._attempt(job)
        except BaseException as err:
            self._finish(job, None, err)
        else:
            if isinstance(result, TryLater):
                self._put_off(job, result.delay_s)
            else:
                self._finish(job, result, None)

    def _take(self) -> Job | None:
        with self._condition:
            while not self._closed:
                now = time.monotonic()
                while self._later and self._later[0][0] <= now:
                    job = heapq.heappop(self._later)[2]
                    self._queue_locked(job)
                while self._ready:
                    job = heapq.heappop(self._ready)[2]
                    if job.state is _State.WAITING:
                        job.state = _State.RUNNING
                        return job
                self._idle += 1
                self._condition.wait(max(0.0, self._later[0][0] - now) if self._later else None)
                self._idle -= 1
            return None

    def _put_off(self, job: Job, delay_s: float) -> None:
        with self._condition:
            if self._closed:
                job.state = _State.OVER
            else:
                job.state = _State.WAITING
                job.tries += 1
                self._sequence += 1
                due = time.monotonic() + delay_s
                heapq.heappush(self._later, (due, self._sequence, job))
                return
        self._finish(job, None, CacheError("the cache was closed during a read"))

    def _finish(self, job: Job, result: Buffer | None, err: BaseException | None) -> None:
        with self._condition:
            job.state = _State.OVER
            self._jobs.pop(job.key, None)
        if job.future.done():
            return
        if err is None:
            job.deliver(result)
        elif job.future.set_running_or_notify_cancel():
            job.future.set_exception(err)
