"""How one missing block gets from the store into the cache, once per host.

The block is claimed (an OFD lock on its index, dropped by the kernel if this process dies), looked
at again, downloaded with `If-Match`, given room in the budget, written, and made ready. While
another process holds the claim, the job is put off and looked at again: the block is there then, or
its downloader failed and this process does it.

What the local disk cannot take is still handed to the readers who wait for it: a full or failing
disk costs the cache, never the read. Thread-safe; holds no lock of this process.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from dataplane.cache.fetch import Job, TryLater
from dataplane.errors import StoreError
from dataplane.stores.base import Buffer
from dataplane.telemetry import Counters

__all__ = ["Filler"]

# Another process's download takes milliseconds to seconds; looking costs two microseconds.
_FIRST_DELAY_S = 0.0005
_LAST_DELAY_S = 0.02
_DELAY_GROWTH = 1.5


class Filler:
    """Does the jobs of a `Fetcher`.

    Args:
        counters: where downloads are counted.
        on_disk_error: told when the disk refuses a block that had room in the budget.
    """

    def __init__(self, counters: Counters, on_disk_error: Callable[[OSError], None]) -> None:
        self._counters = counters
        self._on_disk_error = on_disk_error

    def attempt(self, job: Job) -> Buffer | TryLater | None:
        """Download and keep a block, unless somebody else did or is at it.

        Raises:
            StoreError: the store's answer, `ObjectChanged` among them.
        """
        blocks, block = job.entry.blocks, job.key[1]
        if blocks.is_ready(block):
            return None
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
            content = self._download(job)
            self._keep(job, content)
            return content
        finally:
            blocks.release(block)

    def _download(self, job: Job) -> Buffer:
        block_bytes = job.entry.blocks.block_bytes
        start = job.key[1] * block_bytes
        stop = min(start + block_bytes, job.info.size_bytes)
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

    def _keep(self, job: Job, content: Buffer) -> None:
        budget = job.entry.budget
        length = memoryview(content).nbytes
        try:
            if not budget.reserve(length):
                self._counters.add("cache_uncached_blocks")
                return
        except OSError as err:
            self._refuse(err)
            return
        try:
            job.entry.blocks.publish(job.key[1], content)
        except OSError as err:
            budget.release(length)
            # Others fill the disk too. Making room helps the next block if there is any to make.
            if err.errno not in (errno.ENOSPC, errno.EDQUOT) or not budget.free(4 * length):
                self._refuse(err)
            else:
                self._counters.add("cache_uncached_blocks")

    def _refuse(self, err: OSError) -> None:
        self._counters.add("cache_uncached_blocks")
        self._on_disk_error(err)
