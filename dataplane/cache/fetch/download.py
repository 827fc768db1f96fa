"""Downloads: missing blocks are fetched from the store once per host and committed to the cache.

Workers pull coalesced requests from the scheduler, for blocks that follow each other. Each block is
claimed (an OFD lock on its index, dropped by the kernel if this process dies), looked at again,
given room in the budget, and written and committed as soon as its last byte has arrived, while the
next ones are still coming. A block in the prefetch buffer is handed over from memory before it is
written. While another process holds a claim, the job is put off and looked at again: the block is
there then, or its downloader failed and this process does it. A request is given up when no reader
or plan wants the rest of it.

What the local disk cannot take is still handed to the readers that wait for it: a full or failing
disk costs the cache, never the read.

Threads are named dp-fetch-N, start with the first job and end with `close`. Thread-safe; holds no
lock of this process while it works.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import mmap
import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from dataplane.buffers import shared_pool
from dataplane.cache.config import CacheConfig
from dataplane.cache.eviction.working_set import WorkingSets
from dataplane.cache.fetch.scheduler import (
    UNWANTED,
    CoalescedRequest,
    Job,
    Outcome,
    Scheduler,
    TryLater,
)
from dataplane.cache.guard import DirectoryGuard
from dataplane.cache.read.prefetch_buffer import PrefetchBuffer
from dataplane.daemon_thread import DaemonThread
from dataplane.errors import StoreError
from dataplane.stores.base import Buffer
from dataplane.telemetry import Counters

__all__ = ["Downloader"]

# Another process's download takes milliseconds to seconds; looking costs two microseconds.
_FIRST_DELAY_S = 0.0005
_LAST_DELAY_S = 0.02
_DELAY_GROWTH = 1.5
_LEASED_TRIES = 3  # a lease that finds its block gone is let go of at once
_BLOCKS_TO_FREE = 4  # when the disk is full although the budget is not


@dataclass(slots=True)
class _Claim:
    """A block to download.

    Attributes:
        job: job that asks for it.
        is_held: whether its lock is ours; the disk may have refused it.
        has_room: whether the budget has room for it that nothing was written to yet.
    """

    job: Job
    is_held: bool
    has_room: bool = False

    def release(self) -> None:
        """Give up the lock, and the room."""
        if self.has_room:
            self.job.entry.budget.release(_disk_bytes(self.job))
        if self.is_held:
            self.job.entry.blocks.release(self.job.key[1])


class Downloader:
    """The download threads of one cache.

    Args:
        config: number of threads, length of a request, direct I/O.
        request_bytes: most bytes of one request; at least a block.
        counters: counters of downloads.
        working_sets: working sets of the plans of this process.
        buffer: prefetch buffer; offered each downloaded block to hold.
        guard: guard of the directory: told when the disk refuses a block; gives slots for requests
            to a store.
    """

    def __init__(
        self,
        config: CacheConfig,
        request_bytes: int,
        counters: Counters,
        working_sets: WorkingSets,
        buffer: PrefetchBuffer,
        *,
        guard: DirectoryGuard,
    ) -> None:
        self._direct_io = config.direct_io
        self._counters = counters
        self._working_sets = working_sets
        self._buffer = buffer
        self._guard = guard
        self.scheduler = Scheduler(config.fetch_threads, request_bytes, buffer)
        self._threads: list[threading.Thread] = []
        self._numbers = itertools.count()

    def start_threads(self) -> None:
        """Start as many threads as the jobs that were submitted need."""
        while self.scheduler.is_short_of_workers():
            name = f"dp-fetch-{next(self._numbers)}"
            thread = DaemonThread(self._work, name=name)
            try:
                thread.start()
            except BaseException as err:
                self.scheduler.lose_worker()
                if isinstance(err, RuntimeError) and self._threads:
                    return  # the system allows no more threads: those that are there do the work
                raise
            self._threads.append(thread)

    def close(self, wait_s: float) -> None:
        """Cancel what has not begun, wait for what has, and end the threads. Idempotent.

        Args:
            wait_s: longest wait for the threads that are in the middle of a download.
        """
        self.scheduler.close()
        until_s = time.monotonic() + wait_s
        threads, self._threads = self._threads, []
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until_s - time.monotonic()))

    def _work(self) -> None:
        for request in self.scheduler.requests():
            try:
                self._serve(request)
            except BaseException as err:
                request.end(err)
            else:
                request.end()
            del request  # its buffers must not live on in an idle thread

    def _serve(self, request: CoalescedRequest) -> None:
        """Download and keep the blocks of a request, less those that others have or download.

        Raises:
            StoreError: the store's answer, `ObjectChanged` among them.
        """
        claims: deque[_Claim] = deque()
        try:
            job: Job | None = request.first
            while job is not None:
                outcome = self._claim(job)
                if isinstance(outcome, _Claim) and outcome.is_held:
                    claims.append(outcome)
                    job = request.extend()
                    continue
                if not isinstance(outcome, _Claim):
                    request.settle(job, outcome)
                    if not claims:  # nothing is downloaded yet
                        job = request.extend()
                        continue
                if request.leave_following():
                    self.start_threads()
                if isinstance(outcome, _Claim):
                    self._fill(request, deque([outcome]))
                break
            self._fill(request, claims)
        finally:
            while claims:
                with contextlib.suppress(OSError):  # the next ones must go, too
                    claims.popleft().release()

    def _claim(self, job: Job) -> Outcome | _Claim:
        """Claim a block to download, and room for it, or say why there is no need to."""
        if not self._is_wanted(job):
            return UNWANTED
        blocks, block = job.entry.blocks, job.key[1]
        if blocks.is_ready(block):
            return None
        # A job that ended between its reader's look at what is held and the making of this one.
        held = self._buffer.held(job.key)
        if held is not None:
            return held
        try:
            if not blocks.try_claim(block):
                is_shown = job.tries >= _LEASED_TRIES and blocks.is_leased(block)
                if is_shown and not blocks.is_ready(block):
                    # Found bad under the lease of a decoder, which may be waiting for this job.
                    return _Claim(job, is_held=False)
                delay_s = _FIRST_DELAY_S * _DELAY_GROWTH ** min(job.tries, 30)
                return TryLater(min(_LAST_DELAY_S, delay_s))
        except OSError as err:
            self._guard.on_disk_error(err)
            return _Claim(job, is_held=False)
        claim = _Claim(job, is_held=True)
        try:
            if not blocks.is_ready(block):
                claim.has_room = self._reserve(job)
                return claim
        except BaseException:
            claim.release()
            raise
        claim.release()
        return None

    def _reserve(self, job: Job) -> bool:
        try:
            working_set = self._working_sets.of(job.key[0])
            is_guest = working_set is not None and working_set.is_guest(*job.key)
            room = job.entry.budget.reserve(_disk_bytes(job), working_set, is_guest=is_guest)
        except OSError as err:
            self._guard.on_disk_error(err)
            return False
        if not room and working_set is None:
            self._guard.on_no_room()
        return room

    def _is_wanted(self, job: Job) -> bool:
        return job.demand or self._buffer.is_pinned(*job.key)

    def _fill(self, request: CoalescedRequest, claims: deque[_Claim]) -> None:
        """Download blocks that follow each other, and keep them; what is done leaves `claims`."""
        if not claims:
            return
        slot = self._guard.slot_at(claims[0].job.store.identity)
        with (
            slot,
            contextlib.closing(self._download([claim.job for claim in claims])) as contents,
        ):
            for content in contents:
                job = claims[0].job
                if self._buffer.hold(job.key, content):
                    job.deliver(content)  # its readers need not wait for the disk
                if not self._keep(claims[0], content):
                    self._counters.add("cache_uncached_blocks")
                claims.popleft().release()
                request.settle(job, content)
                del content  # the next one comes into memory meanwhile
        while claims:
            claim = claims.popleft()
            claim.release()
            request.settle(claim.job, UNWANTED)

    def _download(self, jobs: Sequence[Job]) -> Generator[Buffer, None, None]:
        """Make one coalesced request; yield each block when whole, until no more are wanted."""
        if not any(map(self._is_wanted, jobs)):
            return  # that may have been while it waited for its slot
        first = jobs[0]
        number, block_bytes = 0, first.entry.blocks.block_bytes
        start, stop = _start(first), _stop(jobs[-1])
        pieces = first.store.stream_range(
            first.info.key,
            start,
            stop,
            piece_bytes=block_bytes,
            if_match=first.info.etag or None,
        )
        try:
            with contextlib.closing(pieces):
                for number, piece in enumerate(pieces, 1):
                    got = memoryview(piece).nbytes
                    begin = start + (number - 1) * block_bytes
                    expected = min(block_bytes, stop - begin)
                    if got != expected:
                        raise StoreError(
                            f"{first.store.url}: bytes {begin} to {begin + expected} of "
                            f"{first.info.key!r}: expected {expected} bytes, got {got}"
                        )
                    self._counters.add_all({"cache_fetches": 1, "cache_fetch_bytes": got})
                    yield _aligned(piece)
                    del piece
                    if number < len(jobs) and not any(map(self._is_wanted, jobs[number:])):
                        return
            if number < len(jobs):
                raise StoreError(
                    f"{first.store.url}: bytes {start} to {stop} of {first.info.key!r}: "
                    f"expected {stop - start} bytes, got {number * block_bytes}"
                )
        except GeneratorExit:
            raise  # closed by its consumer
        except BaseException:
            self._counters.add("cache_fetch_errors")
            raise

    def _keep(self, claim: _Claim, content: Buffer) -> bool:
        """Write a block, if there is room for it; say whether it is on the disk."""
        if not claim.has_room:
            return False
        entry = claim.job.entry
        try:
            entry.blocks.commit(claim.job.key[1], content, direct=self._direct_io)
        except ValueError:
            if not entry.blocks.is_ready(claim.job.key[1]):
                raise
            return True  # another process has filled it meanwhile; the room is given back
        except OSError as err:
            # Others fill the disk too. If there was room to make, the next block has it.
            full = err.errno in (errno.ENOSPC, errno.EDQUOT)
            if not full or not entry.budget.free(_BLOCKS_TO_FREE * entry.blocks.block_bytes):
                self._guard.on_disk_error(err)
            return False
        claim.has_room = False  # it is the block's now
        return True


def _aligned(content: Buffer) -> memoryview:
    """Return the bytes in memory that the disk can be written from past the page cache.

    Read-only: several readers see it, and it may be written to the disk after they had it.
    """
    array = np.frombuffer(content, np.uint8)
    if array.ctypes.data % mmap.PAGESIZE == 0:
        return memoryview(content).toreadonly()
    lent = shared_pool().array(array.shape, array.dtype)
    np.copyto(lent, array)
    return lent.data.toreadonly()


def _disk_bytes(job: Job) -> int:
    return _stop(job) - _start(job) + job.entry.sealed_bytes


def _start(job: Job) -> int:
    return job.key[1] * job.entry.blocks.block_bytes


def _stop(job: Job) -> int:
    return min(_start(job) + job.entry.blocks.block_bytes, job.info.size_bytes)
