"""Single-flight scheduler of downloads: one job per missing block, earliest deadline first (EDF).

Readers and plans ask for blocks; a caller that asks for a block that is already under way gets the
same future. The job with the earliest deadline goes first: one of a reader is due at once, one of a
plan when the plan's reader is expected to need it (`deadlines`), and a reader that asks for a
planned block that is still waiting makes it due. So a reader goes before everything that is planned
and not late; plans share by need, not in order of arrival; and since what is late comes before what
is asked for after it, no number of readers keeps a plan waiting for ever.

Workers pull: `requests` gives each a job and those of the blocks behind it, as a
`CoalescedRequest`. It leaves enough for the other workers, so that requests are of single blocks
(or of what is not worth sharing) until more are waiting than there are workers, and nothing
overtakes what comes before it.
The worker settles each job: with the block, with `TryLater` because another process is downloading
it (the worker takes other jobs meanwhile), or with `UNWANTED`.

Thread-safe; one lock, held for bookkeeping only. After a fork the child makes a new one.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeAlias

from dataplane.cache.closed import closed_error, interrupted_error
from dataplane.cache.entries.open_entries import Entry
from dataplane.cache.read.prefetch_buffer import BlockKey, PrefetchBuffer
from dataplane.errors import CacheError
from dataplane.stores.base import Buffer, ObjectInfo, Store

__all__ = [
    "SHARED_BYTES",
    "UNWANTED",
    "CoalescedRequest",
    "Job",
    "Outcome",
    "Scheduler",
    "TryLater",
    "Unwanted",
]


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
        store: store of the object.
        info: the object version.
        due_s: deadline, by `time.monotonic`.
        future: the block's bytes, or None when another process had them put into the cache.
        demand: whether a reader waits for it; a job without one may be cancelled.
        tries: number of times that another process was found downloading it.
    """

    key: BlockKey
    entry: Entry
    store: Store
    info: ObjectInfo
    due_s: float
    future: Future[Buffer | None] = field(default_factory=Future)
    demand: bool = False
    tries: int = 0
    state: _State = _State.WAITING
    is_queued: bool = False

    def deliver(self, content: Buffer | None) -> None:
        """Give the block to the readers that wait for it; the job itself may go on."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(content)


@dataclass(frozen=True, slots=True)
class TryLater:
    """Another process is downloading the block: look again after `delay_s` seconds."""

    delay_s: float


class Unwanted(Enum):
    """The block is not wanted any more, and was not downloaded."""

    UNWANTED = 0


UNWANTED: Final = Unwanted.UNWANTED

SHARED_BYTES = 1 << 20
"""What takes not much longer to come than to begin: no less is shared between workers."""

Outcome: TypeAlias = Buffer | TryLater | Unwanted | None
"""Outcome of a job: what its future shall hold, or why it is not done."""


class CoalescedRequest:
    """Jobs of blocks that follow each other, which a worker took together.

    For one worker, which begins as many of them as it can, leaves the rest to others, and settles
    every job that it began, or fails the request.
    """

    def __init__(self, scheduler: Scheduler, jobs: Sequence[Job]) -> None:
        self._scheduler = scheduler
        self._waiting = deque(jobs)
        self._begun: dict[BlockKey, Job] = {}

    def waiting(self) -> list[Job]:
        """Return the jobs that were not begun; none once the scheduler is closed."""
        return [] if self._scheduler._closed else [*self._waiting]

    def begin(self, count: int) -> None:
        """Begin the first ones of the jobs that wait."""
        for _ in range(count):
            job = self._waiting.popleft()
            self._begun[job.key] = job

    def leave(self) -> bool:
        """Leave to others the jobs that were not begun; say whether there are any."""
        left = [*self._waiting]
        self._waiting.clear()
        if left:
            self._scheduler._give_back(left)
        return bool(left)

    def settle(self, jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> None:
        """Settle jobs with their outcomes."""
        for job in jobs:
            del self._begun[job.key]
        self._scheduler._settle(jobs, outcomes)

    def end(self, error: BaseException | None = None) -> None:
        """Say that nothing more comes: jobs that are not settled fail, with `error` if it is one.

        The readers that wait for one of them get the error.
        """
        if error is not None and not self._begun and self._waiting:
            self.begin(1)  # or it would be tried for ever
        self.leave()
        left, self._begun = [*self._begun.values()], {}
        if left and error is None:
            error = CacheError(f"a download ended without {len(left)} of its blocks")
        for job in left:
            self._scheduler._finish([job], [None], error)


class Scheduler:
    """The downloads of one cache that were asked for and are not done.

    Args:
        workers: most workers that pull.
        request_bytes: most bytes of one request; at least a block.
        buffer: prefetch buffer of this process.
    """

    def __init__(self, workers: int, request_bytes: int, buffer: PrefetchBuffer) -> None:
        self._max_workers = workers
        self._request_bytes = request_bytes
        self._buffer = buffer
        self._condition = threading.Condition()
        self._jobs: dict[BlockKey, Job] = {}
        self._ready: list[tuple[float, int, Job]] = []  # and what was cancelled or moved forward
        self._queued = 0  # jobs in it that can be taken
        self._later: list[tuple[float, int, Job]] = []
        self._workers = 0
        self._starting = 0  # that have not asked for their first request yet
        self._idle = 0
        self._sequence = 0
        self._closed = False

    def submit(
        self,
        entry: Entry,
        store: Store,
        info: ObjectInfo,
        blocks: Iterable[int],
        due_s: float | None = None,
    ) -> list[Job]:
        """Ask for blocks of one entry; joins the jobs that are under way for them, if any.

        Args:
            entry: the entry.
            store: store of the object.
            info: the object version.
            blocks: indices of its blocks.
            due_s: deadline of a plan; None for a reader that waits for them.

        Raises:
            CacheError: the cache is closed.
        """
        with self._condition:
            if self._closed:
                raise closed_error()
            demand = due_s is None
            due = time.monotonic() if due_s is None else due_s
            jobs = [
                self._find_locked(key, due, demand=demand)
                or self._make_locked(Job(key, entry, store, info, due, demand=demand))
                for key in ((entry.name, block) for block in blocks)
            ]
            self._condition.notify(_most_requests(jobs))
            return jobs

    def is_short_of_workers(self) -> bool:
        """Whether one more worker should be started; the caller then starts it."""
        with self._condition:
            # One idle worker looks after the jobs that were put off, and must not leave them.
            wanted = self._queued + bool(self._later)
            is_short = wanted > self._idle + self._starting
            is_short = is_short and self._workers < self._max_workers
            self._workers += is_short
            self._starting += is_short
            return is_short

    def lose_worker(self) -> None:
        """Say that a worker could not be started."""
        with self._condition:
            self._workers -= 1
            self._starting -= 1

    def requests(self) -> Iterator[CoalescedRequest]:
        """Yield what a worker has to do, waiting for it, until the scheduler is closed."""
        with self._condition:
            self._starting -= 1
        while jobs := self._take():
            yield CoalescedRequest(self, jobs)
            del jobs  # their buffers must not live on in an idle worker

    @property
    def job_count(self) -> int:
        """Number of downloads that are asked for and not done."""
        return len(self._jobs)

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
                    self._leave_queue_locked(job, _State.OVER)
                    del self._jobs[job.key]
                    dropped.append(job)
        for job in dropped:
            job.future.cancel()

    def close(self) -> None:
        """Cancel what has not begun, and let the workers go. Idempotent."""
        with self._condition:
            self._closed = True
            waiting = [job for job in self._jobs.values() if job.state is _State.WAITING]
            for job in waiting:
                self._leave_queue_locked(job, _State.OVER)
                del self._jobs[job.key]
            self._condition.notify_all()
        for job in waiting:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(interrupted_error())

    def _find_locked(self, key: BlockKey, due_s: float, *, demand: bool) -> Job | None:
        job = self._jobs.get(key)
        if job is not None:
            job.demand |= demand
            if due_s < job.due_s:
                job.due_s = due_s
                if job.state is _State.WAITING:
                    self._queue_locked(job)
        return job

    def _make_locked(self, job: Job) -> Job:
        self._jobs[job.key] = job
        self._queue_locked(job)
        return job

    def _queue_locked(self, job: Job) -> None:
        if not job.is_queued:
            job.is_queued = True
            self._queued += 1
        self._sequence += 1
        heapq.heappush(self._ready, (job.due_s, self._sequence, job))

    def _leave_queue_locked(self, job: Job, state: _State) -> None:
        job.state = state
        if job.is_queued:
            job.is_queued = False
            self._queued -= 1

    def _take(self) -> list[Job]:
        """Take the job whose turn is next, and those behind it; none when the scheduler is closed.

        All at once: another worker would take the second one while this one looks at the first.
        """
        with self._condition:
            while not self._closed:
                now = time.monotonic()
                while self._later and self._later[0][0] <= now:
                    job = heapq.heappop(self._later)[2]
                    if job.state is _State.WAITING:
                        self._queue_locked(job)
                if (front := self._front_locked()) is not None:
                    heapq.heappop(self._ready)
                    self._leave_queue_locked(front, _State.RUNNING)
                    jobs = [front]
                    while (behind := self._take_next_locked(jobs[-1], len(jobs))) is not None:
                        jobs.append(behind)
                    if self._queued and self._idle:
                        self._condition.notify()
                    return jobs
                self._idle += 1
                self._condition.wait(max(0.0, self._later[0][0] - now) if self._later else None)
                self._idle -= 1
            return []

    def _take_next_locked(self, last: Job, taken: int) -> Job | None:
        """Take the job behind `last`, if its turn is next and this worker may have it."""
        name, block = last.key
        job = self._front_locked()
        if job is None or job.key != (name, block + 1) or job.entry is not last.entry:
            return None
        block_bytes = last.entry.blocks.block_bytes
        # To share what is queued is worth a request of its own only where that is long.
        share = max(-(-(taken + self._queued) // self._max_workers), SHARED_BYTES // block_bytes)
        if taken >= min(share, self._request_bytes // block_bytes):
            return None
        heapq.heappop(self._ready)
        self._leave_queue_locked(job, _State.RUNNING)
        return job

    def _give_back(self, jobs: Sequence[Job]) -> None:
        """Queue jobs again that a worker took and did not begin."""
        with self._condition:
            if not self._closed:
                for job in jobs:
                    job.state = _State.WAITING
                    self._queue_locked(job)
                self._condition.notify()
                return
        for job in jobs:
            self._finish([job], [None], interrupted_error())

    def _front_locked(self) -> Job | None:
        """Return the job whose turn is next."""
        while self._ready and not self._ready[0][2].is_queued:
            heapq.heappop(self._ready)  # cancelled, or done under another place in the queue
        return self._ready[0][2] if self._ready else None

    def _settle(self, jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> None:
        done: list[Job] = []
        contents: list[Buffer | None] = []
        for job, outcome in zip(jobs, outcomes, strict=True):
            if isinstance(outcome, TryLater):
                self._put_off(job, outcome.delay_s)
            elif isinstance(outcome, Unwanted):
                self._drop(job)
            else:
                done.append(job)
                contents.append(outcome)
        self._finish(done, contents)

    def _drop(self, job: Job) -> None:
        """Forget an unwanted job, unless a reader or a plan has asked for it meanwhile."""
        with self._condition:
            if (job.demand or self._buffer.is_pinned(*job.key)) and not self._closed:
                job.state = _State.WAITING
                self._queue_locked(job)
                self._condition.notify()
                return
            job.state = _State.OVER
            self._jobs.pop(job.key, None)
        job.future.cancel()

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
                if self._idle and self._later[0][2] is job:
                    self._condition.notify()  # it waits for that long, and this worker is busy
                return
        self._finish([job], [None], interrupted_error())

    def _finish(
        self,
        jobs: Sequence[Job],
        results: Sequence[Buffer | None],
        err: BaseException | None = None,
    ) -> None:
        with self._condition:
            for job in jobs:
                job.state = _State.OVER
                self._jobs.pop(job.key, None)
        for job, result in zip(jobs, results, strict=True):
            if job.future.done():
                continue
            if err is None:
                job.deliver(result)
            elif job.future.set_running_or_notify_cancel():
                job.future.set_exception(err)


def _most_requests(jobs: Iterable[Job]) -> int:
    """Return how many workers may have to do with jobs that were asked for together."""
    requests, run, last = 0, 0, -1
    for job in jobs:
        if job.state is not _State.WAITING:
            continue
        block, most = job.key[1], max(SHARED_BYTES // job.entry.blocks.block_bytes, 1)
        run = run + 1 if run and block == last + 1 and run < most else 1
        requests += run == 1
        last = block
    return requests
