"""Plans: reads to come, fetched in order, ahead of their reader, within a window.

A plan is the reads to come, in order, each with the step that needs it. One thread per plan walks
it: blocks that are on the local disk are passed over, missing ones are handed to the scheduler, due
when the reader is expected to need them (`deadlines`). It stays within a window of bytes counted
from the step that the reader has reached (`advance`); a block that several reads need counts once,
until the last of them is done. Blocks inside the window are pinned: this process does not evict
them. Reads that come as arrays (`planned`) enter together, as many as are on the disk and have room
in the window; where one of them is not or has none, they enter one by one.

A plan may go on over the end of an epoch: its reads say which epoch they belong to, and the reader
says when it begins the next one (`begin_epoch`). Until then no more than `next_epoch_bytes` of
blocks enter the window for it or stay there, after everything that the present epoch needs, and
nothing for the epoch after it. So a job that ends with this epoch has fetched no more than that for
nothing.

What is dropped, and when: a block leaves memory and loses its pin after the last use of it that is
in the window. On the disk it stays as long as the budget has room, since the plan's end is not the
end of its use: training comes back to it every epoch, and which of the blocks that are all read
once per epoch stays makes no difference (`working_set`). What will never be read again ages there,
and goes as the least recently used.

A failed download is only counted here; the reader meets the error itself, at the read that needs
the block.

Thread-safe; one lock, held for bookkeeping only, and none while the plan is iterated. A finalizer
must not take it, nor those of the cache: the garbage collector runs in any thread, in the middle of
what the locks are held for. So `abandon` only leaves a note; the plan's thread, which stays until
the plan is closed, does the rest.
"""

from __future__ import annotations

import functools
import heapq
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from dataplane.cache.core import CacheCore
from dataplane.cache.eviction.working_set import WorkingSet
from dataplane.cache.fetch.deadlines import Deadlines
from dataplane.cache.fetch.scheduler import SHARED_BYTES, Job
from dataplane.cache.object import CachedObject
from dataplane.cache.planned import BlockUses, PlannedRead, PlannedTable
from dataplane.cache.read.prefetch_buffer import BlockKey, PrefetchBuffer
from dataplane.daemon_thread import DaemonThread
from dataplane.errors import DataplaneError
from dataplane.stores.base import Buffer
from dataplane.telemetry import logger

__all__ = ["MIN_JOBS_PER_THREAD", "REQUESTS_PER_THREAD", "Plan"]

REQUESTS_PER_THREAD = 2
"""Requests that a plan queues for each download thread, behind the readers."""

MIN_JOBS_PER_THREAD = 4
"""Blocks that it queues at least, per thread, however large they are."""

_JOIN_S = 10.0
_FEW_USES = 16  # are entered one by one
_MANY_USES = 4096  # most that are entered together


class Plan:
    """Reads to come, fetched in order, ahead of their reader; made by `Cache.plan`.

    Example:
        with cache.plan(reads) as ahead:
            for step, batch in enumerate(batches):
                ...  # reads of this step
                ahead.advance(step + 1)
    """

    def __init__(
        self, core: CacheCore, reads: Iterable[PlannedRead | PlannedTable], window_bytes: int
    ) -> None:
        self._core = core
        self._buffer = core.buffer
        self._window_bytes = window_bytes
        config = core.config
        # Enough to make full requests of; more would only sit in the queue.
        self._least_jobs = MIN_JOBS_PER_THREAD * config.fetch_threads
        self._most_job_bytes = REQUESTS_PER_THREAD * core.request_bytes * config.fetch_threads
        # Half: plans of the same process that are in the middle of an epoch need memory too.
        self._next_epoch_limit = min(config.next_epoch_bytes, window_bytes // 2)
        self._lock = threading.Lock()
        self._woken: SimpleQueue[None] = SimpleQueue()  # tells the thread to look again
        self._step = 0
        self._deadlines = Deadlines(time.monotonic())
        self._epoch = 0
        self._closed = False
        self._has_left = False
        self._ahead_bytes = 0
        self._next_epoch: set[BlockKey] = set()  # needed by the epoch after the reader's
        self._next_epoch_bytes = 0
        self._last_step: dict[BlockKey, int] = {}  # blocks in the window
        self._lengths: dict[BlockKey, int] = {}
        self._by_step: dict[int, list[BlockKey]] = {}
        self._steps: list[int] = []  # of `_by_step`, as a heap
        self._together = _MANY_USES  # uses of blocks to enter together, as far as that went well
        self._waiting_step: int | None = None  # which waits for room, or for the next epoch
        self._jobs: dict[BlockKey, Job] = {}
        self._planned_epoch = 0
        self._began_tick = time.time_ns()
        self._working_set: WorkingSet | None = None
        self._names: set[str] = set()
        self._thread: threading.Thread = DaemonThread(self._work, args=(reads,), name="dp-plan")
        self._buffer.join()
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def ahead_bytes(self) -> int:
        """Bytes of the blocks in the window: fetched or being fetched, not yet done with."""
        with self._lock:
            return self._ahead_bytes

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, by its owner, with the cache, or by a fork."""
        return self._closed

    def begin_epoch(self, epoch: int) -> None:
        """Say that the reader begins an epoch of the plan; it is in epoch 0 from the start."""
        with self._lock:
            if epoch > self._epoch:
                self._epoch = epoch
                self._next_epoch.clear()
                self._next_epoch_bytes = 0
                self._deadlines.go_on(time.monotonic())
                self._wake_locked()

    def advance(self, step: int) -> None:
        """Say that the reader has finished every read of steps below `step`."""
        with self._lock:
            if step <= self._step:
                return
            self._step = step
            self._deadlines.reach(step, time.monotonic())
            done = self._leave_window_locked()
            if done or (self._waiting_step or 0) < step:
                self._wake_locked()
            if not done:
                return
            # Inside the lock, so that a block that enters the window again keeps its new pin.
            self._buffer.remove(done)
            late = [self._jobs[key] for key in done if key in self._jobs]
        if late:
            self._cancel(late)

    def close(self, *, wait_s: float = _JOIN_S) -> None:
        """Cancel what is left of the plan and let go of its blocks. Idempotent.

        Args:
            wait_s: longest wait for the plan's thread.
        """
        self.abandon()
        if self._thread is not threading.current_thread():
            self._thread.join(wait_s)
        self._let_go()

    def abandon(self) -> None:
        """Have the plan closed soon, by its thread. Takes no lock: a finalizer may call it."""
        self._closed = True
        self._wake()

    def forget_after_fork(self) -> None:
        """Become closed in a forked child, which has neither the thread nor the jobs."""
        self._lock = threading.Lock()
        self._woken = SimpleQueue()
        self._buffer = PrefetchBuffer(0)  # the parent's may be locked for ever
        self._closed = self._has_left = True
        self._jobs = {}
        self._last_step = {}
        self._by_step, self._steps = {}, []
        self._lengths = {}
        self._ahead_bytes = 0
        self._thread = threading.current_thread()

    def _wake(self) -> None:
        # One note is enough: the thread that takes it looks at everything.
        if self._woken.empty():
            self._woken.put(None)

    def _wake_locked(self) -> None:
        """Wake the thread if it waits for something that changes under the lock."""
        if self._waiting_step is not None:
            self._wake()

    def _let_go(self) -> None:
        """Give back what the closed plan has, once: nothing is added to it any more."""
        with self._lock:
            has_left, self._has_left = self._has_left, True
            pinned = list(self._last_step)
            self._last_step.clear()
            self._lengths.clear()
            self._by_step.clear()
            self._steps.clear()
            self._ahead_bytes = 0
            jobs = list(self._jobs.values())
        if not has_left:
            self._buffer.leave()
        self._buffer.remove(pinned)
        self._cancel(jobs)

    def _cancel(self, jobs: list[Job]) -> None:
        """Drop what no other plan has pinned; a request under way sees that by itself."""
        self._core.cancel(job for job in jobs if not self._buffer.is_pinned(*job.key))

    def _leave_window_locked(self) -> list[BlockKey]:
        done = []
        while self._steps and self._steps[0] < self._step:
            step = heapq.heappop(self._steps)
            for key in self._by_step.pop(step):
                if self._last_step.get(key) == step:
                    del self._last_step[key]
                    self._ahead_bytes -= self._lengths.pop(key)
                    done.append(key)
        return done

    def _work(self, reads: Iterable[PlannedRead | PlannedTable]) -> None:
        self._walk(reads)
        del reads
        while not self._closed:
            self._woken.get()
        self._let_go()

    def _walk(self, reads: Iterable[PlannedRead | PlannedTable]) -> None:
        try:
            for read in reads:
                if isinstance(read, PlannedRead):
                    goes_on = self._plan_read(read)
                else:
                    goes_on = self._plan_reads(read)
                if not goes_on:
                    return
        except DataplaneError as err:
            self._core.counters.add("cache_prefetch_errors")
            logger.debug("a plan ended early: %s", err)
        except Exception:  # the boundary of this thread; the reader goes on without a plan
            self._core.counters.add("cache_prefetch_errors")
            logger.exception("the plan of reads raised; reading goes on without prefetching")

    def _plan_read(self, read: PlannedRead) -> bool:
        """Bring the blocks of one read into the window; False when the plan is over."""
        block_bytes = read.source.spec.block_bytes
        if read.start >= read.stop:
            return not self._closed
        at_once = max(SHARED_BYTES // block_bytes, 1)
        entered: list[BlockKey] = []  # and not asked for yet: a worker would take the first alone
        for block in range(read.start // block_bytes, -(-read.stop // block_bytes)):
            length = min(block_bytes, read.source.info.size_bytes - block * block_bytes)
            key = (read.source.name, block)
            if not self._enter_window(key, length, read, waits=False):
                if self._closed:
                    return False
                self._request(read, entered)
                entered.clear()
                if not self._enter_window(key, length, read):
                    return False
            self._join_working_set(read, block)
            entered.append(key)
            if len(entered) >= at_once:
                self._request(read, entered)
                entered.clear()
        self._request(read, entered)
        return True

    def _plan_reads(self, reads: PlannedTable) -> bool:
        """Bring the blocks of many reads into the window; False when the plan is over."""
        uses = reads.block_uses()
        first = 0
        while first < len(uses):
            if self._closed:
                return False
            part = uses[first : first + self._together]
            if self._enter_together(part):
                first += len(part)
                self._together = min(2 * self._together, _MANY_USES)
            elif self._together > _FEW_USES:
                self._together //= 4
            else:
                part = uses[first : uses.end_of_run(first + len(part))]
                for read in part.runs():
                    if not self._plan_read(read):
                        return False
                first += len(part)
                self._together = 2 * _FEW_USES
        return not self._closed

    def _enter_together(self, uses: BlockUses) -> bool:
        """Bring blocks into the window if all are on the disk and have room; say whether."""
        reads = uses.last_uses()
        keys = [(read.source.name, read.start // read.source.spec.block_bytes) for read in reads]
        lengths = [read.stop - read.start for read in reads]
        missing = [n for n, key in enumerate(keys) if key not in self._last_step]
        if not all(self._is_ready(reads[n].source, keys[n][1]) for n in missing):
            return False
        with self._lock:
            if not self._may_enter_together_locked(keys, lengths, uses.epoch):
                return False
            for key, length, read in zip(keys, lengths, reads, strict=True):
                if read.step >= self._step:  # else the reader has overtaken the plan
                    self._add_locked(key, length, read)
        for read, key in zip(reads, keys, strict=True):
            self._join_working_set(read, key[1])
        for n in missing:
            self._request(reads[n], keys[n : n + 1])  # if it was evicted before it was pinned
        return True

    def _is_ready(self, source: CachedObject, block: int) -> bool:
        entry = self._core.entry(source.name, source.spec)
        return entry is not None and entry.blocks.is_ready(block)

    def _may_enter_together_locked(
        self, keys: list[BlockKey], lengths: list[int], epoch: int
    ) -> bool:
        """Whether blocks that need no download may all enter the window now."""
        if self._closed or epoch > self._epoch + 1:
            return False
        blocks = list(zip(keys, lengths, strict=True))
        ahead = sum(length for key, length in blocks if key not in self._last_step)
        if self._ahead_bytes + ahead > self._window():
            return False
        if epoch <= self._epoch:
            return True
        further = sum(length for key, length in blocks if key not in self._next_epoch)
        return self._next_epoch_bytes + further <= self._next_epoch_limit

    def _join_working_set(self, read: PlannedRead, block: int) -> None:
        """Say that this pass reads the object; not before it does: an epoch begins with that."""
        name = read.source.name
        if read.epoch != self._planned_epoch:
            self._planned_epoch = read.epoch
            self._began_tick, self._working_set = time.time_ns(), None
            self._names.clear()
        if name not in self._names:
            self._names.add(name)
            self._working_set = self._core.working_sets.join(
                name, self._working_set, self._began_tick
            )
        if read.is_guest is not None and self._working_set is not None:
            self._working_set.note_kind(
                name, block, read.source.spec.blocks, is_guest=read.is_guest
            )

    def _enter_window(
        self, key: BlockKey, length: int, read: PlannedRead, *, waits: bool = True
    ) -> bool:
        """Bring a block into the window; False when the plan is over, or it would have to wait."""
        while True:
            with self._lock:
                self._waiting_step = None
                if self._closed:
                    return False
                if read.step < self._step:  # the reader has overtaken the plan
                    return True
                if self._may_enter_locked(key, length, read.epoch):
                    self._add_locked(key, length, read)
                    return True
                if not waits:
                    return False
                self._waiting_step = read.step
            self._woken.get()

    def _add_locked(self, key: BlockKey, length: int, read: PlannedRead) -> None:
        known = key in self._last_step
        if not known:
            self._ahead_bytes += length
            self._lengths[key] = length
        if read.epoch > self._epoch and key not in self._next_epoch:
            self._next_epoch.add(key)
            self._next_epoch_bytes += length
        if not known or self._last_step[key] < read.step:
            self._last_step[key] = read.step
            if read.step not in self._by_step:
                self._by_step[read.step] = []
                heapq.heappush(self._steps, read.step)
            self._by_step[read.step].append(key)
        if not known:
            # Inside the lock, so that advance() cannot take the pin before it is there.
            self._buffer.add(key)

    def _may_enter_locked(self, key: BlockKey, length: int, epoch: int) -> bool:
        """Whether a block may enter the window now, or be needed for longer if it is there."""
        grown = self._next_epoch_bytes + (0 if key in self._next_epoch else length)
        if epoch > self._epoch and grown > self._next_epoch_limit:
            return False
        if epoch > self._epoch + 1:
            return False
        if key in self._last_step:
            return True
        fits = self._ahead_bytes + length <= self._window() or not self._last_step
        count = len(self._jobs)
        return fits and (count < self._least_jobs or count * length < self._most_job_bytes)

    def _window(self) -> int:
        """Window in bytes: blocks that the cache has no room for must fit into memory."""
        if self._working_set is not None and self._working_set.is_full:
            return min(self._window_bytes, self._buffer.share_bytes)
        return self._window_bytes

    def _request(self, read: PlannedRead, keys: Sequence[BlockKey]) -> None:
        """Ask for blocks of a read that are not on the disk, all at once."""
        source = read.source
        entry = self._core.entry(source.name, source.spec)
        missing = [] if entry is None else [k for k in keys if not entry.blocks.is_ready(k[1])]
        if entry is None or not missing:
            return
        made = []
        with self._lock:
            # Inside the lock, so that nothing is downloaded that the reader is done with.
            missing = [key for key in missing if key in self._last_step]
            if not missing:
                return
            is_certain = read.epoch <= self._epoch
            due_s = self._deadlines.due_s(read.step, time.monotonic(), is_certain=is_certain)
            blocks = [block for _, block in missing]
            jobs = self._core.submit(entry, source.store, source.info, blocks, due_s)
            for key, job in zip(missing, jobs, strict=True):
                if self._jobs.get(key) is not job:
                    self._jobs[key] = job
                    made.append((key, job.future))
        self._core.counters.add("cache_prefetch_blocks", len(made))
        # By key: a callback that knew the job would keep both, and the block, alive in a cycle.
        for key, future in made:
            future.add_done_callback(functools.partial(self._on_done, key))

    def _on_done(self, key: BlockKey, future: Future[Buffer | None]) -> None:
        with self._lock:
            if key in self._jobs and self._jobs[key].future is future:
                del self._jobs[key]
            self._wake_locked()
        if not future.cancelled() and future.exception() is not None:
            self._core.counters.add("cache_prefetch_errors")
