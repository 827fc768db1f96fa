"""How one missing block gets from the store into the cache, once per host.

The block is claimed (an OFD lock on its index, dropped by the kernel if this process dies), looked
at again, given room in the budget, downloaded with `If-Match`, written, and made ready. A block
that a plan awaits is handed over from memory before it is written. While another process holds the
claim, the job is put off and looked at again: the block is there then, or its downloader failed and
this process does it.

What the local disk cannot take is still handed to the readers who wait for it: a full or failing
disk costs the cache, never the read. Thread-safe; holds no lock of this process.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import numpy as np

from dataplane.buffers import shared_pool
from dataplane.cache.awaited import Awaited
from dataplane.cache.fetch import Job, TryLater
from dataplane.cache.rotation import Rotation
from dataplane.errors import StoreError
from dataplane.stores.base import Buffer
from dataplane.telemetry import Counters

__all__ = ["Filler"]

# Another process's download takes milliseconds to seconds; looking costs two microseconds.
_FIRST_DELAY_S = 0.0005
_LAST_DELAY_S = 0.02
_DELAY_GROWTH = 1.5
_BLOCKS_TO_FREE = 4  # when the disk is full although the budget is not


class Filler:
    """Does the jobs of a `Fetcher`.

    Args:
        counters: where downloads are counted.
        rotation_of: the rotation of an entry, by its name.
        awaited: the blocks that plans will read soon; offered each downloaded block to hold.
        on_disk_error: told when the disk refuses a block that had room in the budget.
        on_no_room: told when the budget has no room and nothing could be evicted.
        direct_io: write blocks past the page cache where the file system can.
    """

    def __init__(
        self,
        counters: Counters,
        rotation_of: Callable[[str], Rotation | None],
        awaited: Awaited,
        on_disk_error: Callable[[OSError], None],
        on_no_room: Callable[[], None],
        *,
        direct_io: bool,
    ) -> None:
        self._counters = counters
        self._rotation_of = rotation_of
        self._awaited = awaited
        self._direct_io = direct_io
        self._on_disk_error = on_disk_error
        self._on_no_room = on_no_room

    def attempt(self, job: Job) -> Buffer | TryLater | None:
        """Download and keep a block, unless somebody else did or is at it.

        Raises:
            StoreError: the store's answer, `ObjectChanged` among them.
        """
        blocks, block = job.entry.blocks, job.key[1]
        if blocks.is_ready(block):
            return None
        # A job that ended between its reader's look at what is held and the making of this one.
        held = self._awaited.held(job.key)
        if held is not None:
            return held
        try:
            claimed = blocks.try_claim(block)
        except OSError as err:
            self._on_disk_error(err)
            return self._download(job)
        if not claimed:
            return TryLater(
                min(_LAST_DELAY_S, _FIRST_DELAY_S * _DELAY_GROWTH ** min(job.tries, 30))
            )
        try:
            if blocks.is_ready(block):
                return None
            return self._fill(job)
        finally:
            blocks.release(block)

    def _fill(self, job: Job) -> Buffer:
        """Download a claimed block, and keep it if there is room for it."""
        length = _stop(job) - _start(job)
        on_disk = length + job.entry.sealed_bytes
        try:
            rotation = self._rotation_of(job.key[0])
            room = job.entry.budget.reserve(on_disk, rotation)
            if not room and rotation is None:
                self._on_no_room()
        except OSError as err:
            self._on_disk_error(err)
            room = False
        kept = False
        try:
            # Copied, so that the client can download the next block into memory that it has used
            # before, and so that the disk can be written to from page-aligned memory.
            lent = shared_pool().array((length,), np.dtype(np.uint8))
            np.copyto(lent, np.frombuffer(self._download(job), np.uint8))
            content = lent.data
            if self._awaited.hold(job.key, content):
                job.deliver(content)  # its readers need not wait for the disk
            kept = room and self._keep(job, content)
        finally:
            if room and not kept:
                job.entry.budget.release(on_disk)
        if not kept:
            self._counters.add("cache_uncached_blocks")
        return content

    def _download(self, job: Job) -> Buffer:
        start, stop = _start(job), _stop(job)
        try:
            content = job.store.get_range(job.info.key, start, stop, if_match=job.info.etag or None)
            got = memoryview(content).nbytes
            if got != stop - start:
                raise StoreError(
                    f"{job.store.url}: bytes {start} to {stop} of {job.info.key!r}: "
                    f"expected {stop - start} bytes, got {got}"
                )
        except BaseException:
            self._counters.add("cache_fetch_errors")
            raise
        self._counters.add_all({"cache_fetches": 1, "cache_fetch_bytes": got})
        return content

    def _keep(self, job: Job, content: Buffer) -> bool:
        try:
            job.entry.blocks.publish(job.key[1], content, direct=self._direct_io)
        except OSError as err:
            # Others fill the disk too. If there was room to make, the next block has it.
            full = err.errno in (errno.ENOSPC, errno.EDQUOT)
            if not full or not job.entry.budget.free(
                _BLOCKS_TO_FREE * job.entry.blocks.block_bytes
            ):
                self._on_disk_error(err)
            return False
        return True


def _start(job: Job) -> int:
    return job.key[1] * job.entry.blocks.block_bytes


def _stop(job: Job) -> int:
    return min(_start(job) + job.entry.blocks.block_bytes, job.info.size_bytes)
