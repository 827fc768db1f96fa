"""Downloads: missing blocks are fetched from the store once per host and committed to the cache.

Workers pull coalesced requests from the scheduler, for blocks that follow each other. The blocks
are claimed (OFD locks on their indices, dropped by the kernel if this process dies), looked at
again, and given room in the budget; and written and committed as soon as the last byte of each, or
of as many small ones as make a mebibyte, has arrived, while the next ones are still coming. Blocks
in the prefetch buffer are handed over from memory before they are written. While another process
holds a claim, the job is put off and looked at again: the block is there then, or its downloader
failed and this process does it. A request is given up when no reader or plan wants the rest of it.

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
    SHARED_BYTES,
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
_PIECE_BYTES = SHARED_BYTES
"""What small blocks are received, written and settled together for: each step costs a look at the
interpreter's lock, of which there is one for all threads."""


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


def _release(claims: Sequence[_Claim]) -> None:
    """Give up the locks and the rooms of claims of blocks that follow each other."""
    if not claims:
        return
    entry = claims[0].job.entry
    for claim in claims:
        if claim.has_room:
            entry.budget.release(_disk_bytes(claim.job))
            claim.has_room = False
    if claims[0].is_held:  # one that is not has no others beside it
        entry.blocks.release(claims[0].job.key[1], len(claims))


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
            while not claims and (jobs := request.waiting()):
                claims.extend(self._claim_together(jobs))
                request.begin(max(len(claims), 1))
                if not claims:
                    outcome = self._claim(jobs[0])
                    if isinstance(outcome, _Claim):
                        claims.append(outcome)
                    else:
                        request.settle(jobs[:1], [outcome])
            if request.leave():
                self.start_threads()
            self._fill(request, claims)
        finally:
            _release([*claims])

    def _claim_together(self, jobs: Sequence[Job]) -> list[_Claim]:
        """Claim blocks and room for them, from the first on as many as nothing is in the way of."""
        lacking = itertools.takewhile(self._is_lacking, jobs)
        claims = [_Claim(job, is_held=True) for job in lacking]
        if len(claims) < 2:
            return []  # one is claimed alone, which says what is in the way
        try:
            claimed = jobs[0].entry.blocks.try_claim(jobs[0].key[1], len(claims))
        except OSError:
            return []
        del claims[claimed:]
        try:
            # Another process may have filled some before they were claimed.
            count = sum(1 for _ in itertools.takewhile(self._is_lacking, jobs[:claimed]))
            _release(claims[count:])
            del claims[count:]
            self._reserve(claims)
        except BaseException:
            _release(claims)
            raise
        return claims

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
                self._reserve([claim])
                return claim
        except BaseException:
            _release([claim])
            raise
        _release([claim])
        return None

    def _reserve(self, claims: Sequence[_Claim]) -> None:
        """Reserve room for blocks: for all at once, or for as many as others are evicted for."""
        if not claims:
            return
        lengths = [_disk_bytes(claim.job) for claim in claims]
        working_set = self._working_sets.of(claims[0].job.key[0])
        budget = claims[0].job.entry.budget
        try:
            together = len(claims) > 1 and budget.reserve_free(sum(lengths))
            for claim, length in zip(claims, lengths, strict=True):
                is_guest = working_set is not None and working_set.is_guest(*claim.job.key)
                claim.has_room = together or budget.reserve(length, working_set, is_guest=is_guest)
                if not claim.has_room and working_set is None:
                    self._guard.on_no_room()
        except OSError as err:
            self._guard.on_disk_error(err)

    def _is_lacking(self, job: Job) -> bool:
        """Whether a block is wanted, and neither on the disk nor in memory."""
        if not self._is_wanted(job) or job.entry.blocks.is_ready(job.key[1]):
            return False
        return self._buffer.held(job.key) is None

    def _is_wanted(self, job: Job) -> bool:
        return job.demand or self._buffer.is_pinned(*job.key)

    def _fill(self, request: CoalescedRequest, claims: deque[_Claim]) -> None:
        """Download blocks that follow each other, and keep them; what is done leaves `claims`."""
        if not claims:
            return
        first = claims[0].job
        with (
            self._guard.slot_at(first.store.identity),
            contextlib.closing(self._download([claim.job for claim in claims])) as pieces,
        ):
            for piece in pieces:
                contents = _blocks_of(piece, first.entry.blocks.block_bytes)
                part = [claims[number] for number in range(len(contents))]
                self._keep(part, piece, contents)
                for _ in part:
                    claims.popleft()
                _release(part)
                request.settle([claim.job for claim in part], contents)
                del piece, contents
        if claims:
            left = [*claims]
            claims.clear()
            _release(left)
            request.settle([claim.job for claim in left], [UNWANTED] * len(left))

    def _download(self, jobs: Sequence[Job]) -> Generator[memoryview, None, None]:
        """Make one coalesced request; yield its blocks, some at a time, until none is wanted."""
        if not any(map(self._is_wanted, jobs)):
            return  # that may have been while it waited for its slot
        first = jobs[0]
        block_bytes = first.entry.blocks.block_bytes
        piece_bytes = max(_PIECE_BYTES // block_bytes, 1) * block_bytes
        start, stop = _start(first), _stop(jobs[-1])
        position = start
        pieces = first.store.stream_range(
            first.info.key,
            start,
            stop,
            piece_bytes=piece_bytes,
            if_match=first.info.etag or None,
        )
        try:
            with contextlib.closing(pieces):
                for piece in pieces:
                    got = memoryview(piece).nbytes
                    expected = min(piece_bytes, stop - position)
                    if got != expected:
                        raise StoreError(
                            f"{first.store.url}: bytes {position} to {position + expected} of "
                            f"{first.info.key!r}: expected {expected} bytes, got {got}"
                        )
                    position += got
                    blocks = -(-got // block_bytes)
                    self._counters.add_all({"cache_fetches": blocks, "cache_fetch_bytes": got})
                    yield _aligned(piece)
                    del piece
                    done = (position - start) // block_bytes
                    if position < stop and not any(map(self._is_wanted, jobs[done:])):
                        return
            if position < stop:
                raise StoreError(
                    f"{first.store.url}: bytes {start} to {stop} of {first.info.key!r}: "
                    f"expected {stop - start} bytes, got {position - start}"
                )
        except GeneratorExit:
            raise  # closed by its consumer
        except BaseException:
            self._counters.add("cache_fetch_errors")
            raise

    def _keep(self, claims: Sequence[_Claim], piece: Buffer, contents: Sequence[Buffer]) -> None:
        """Give blocks to those who wait for them, and write them to the disk."""
        name, first = claims[0].job.key
        held = self._buffer.hold(name, dict(enumerate(contents, first)))
        for claim, content in zip(claims, contents, strict=True):
            if claim.job.key[1] in held:
                claim.job.deliver(content)  # its readers need not wait for the disk
        if self._write_together(claims, piece):
            return
        for claim, content in zip(claims, contents, strict=True):
            if not self._write(claim, content):
                self._counters.add("cache_uncached_blocks")

    def _write_together(self, claims: Sequence[_Claim], piece: Buffer) -> bool:
        """Write several blocks in one go; False when that must be done, or fail, one by one."""
        if len(claims) < 2 or not all(claim.has_room for claim in claims):
            return False
        first = claims[0].job
        try:
            first.entry.blocks.commit(first.key[1], piece, direct=self._direct_io)
        except (ValueError, OSError):
            return False
        for claim in claims:
            claim.has_room = False  # it is the block's now
        return True

    def _write(self, claim: _Claim, content: Buffer) -> bool:
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


def _blocks_of(piece: memoryview, block_bytes: int) -> list[memoryview]:
    """Return the blocks that a piece consists of; the object's last one may be shorter.

    Of several, each is a copy: who keeps one must not keep the others with it.
    """
    if piece.nbytes <= block_bytes:
        return [piece]
    blocks = []
    for start in range(0, piece.nbytes, block_bytes):
        part = piece[start : start + block_bytes]
        lent = shared_pool().array((part.nbytes,), np.dtype(np.uint8)).data
        lent[:] = part  # which keeps the interpreter: it is over before another thread would begin
        blocks.append(lent.toreadonly())
    return blocks


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
