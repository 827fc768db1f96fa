"""`CachedObject`: one object version read through the cache.

A read first copies what is on the local disk, in the native module and without the GIL. For the
blocks that were missing it asks the fetcher, waits, and copies them too; a block that could not be
kept is copied from the download itself. When the cache cannot be used, reads go to the store.

Thread-safe. Holds no files: open entries belong to the cache, which keeps a bounded number of them.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from dataplane.cache.entries import Entry
from dataplane.cache.fetch import Job
from dataplane.cache.sealed import HEADER_BYTES
from dataplane.cache.spec import EntrySpec
from dataplane.errors import ConfigError
from dataplane.stores.base import Buffer, ObjectInfo, Store

if TYPE_CHECKING:
    from dataplane.cache.cache import Cache

__all__ = ["CachedObject"]

# One read keeps this many requests' blocks per thread in its memory at most.
_REQUESTS_PER_THREAD = 2


class CachedObject:
    """One object version; made by `Cache.open`.

    Attributes:
        info: the version that is read; a store that has another raises `ObjectChanged`.
        store: where it comes from.
    """

    __slots__ = ("__weakref__", "_cache", "info", "name", "spec", "store")

    def __init__(self, cache: Cache, store: Store, info: ObjectInfo) -> None:
        self._cache = cache
        self.store = store
        self.info = info
        self.spec = EntrySpec(
            store=store.identity,
            key=store.full_key(info.key),
            etag=info.etag,
            size_bytes=info.size_bytes,
            block_bytes=cache.config.block_bytes,
            key_identity=cache.sealer.identity if cache.sealer is not None else "",
            sealed_bytes=HEADER_BYTES if cache.sealer is not None else 0,
        )
        self.name = self.spec.digest().hex()

    def __reduce__(self) -> tuple[object, ...]:
        return (CachedObject, (self._cache, self.store, self.info))

    def __repr__(self) -> str:
        return f"CachedObject({self.store.url!r}, {self.info.key!r})"

    def read(self, start: int, stop: int) -> memoryview:
        """Return bytes `[start, stop)` in fresh memory.

        Raises:
            ConfigError: the range is outside the object.
            StoreError: a missing block could not be fetched; `ObjectChanged` when the object was
                replaced.
        """
        self._check_range(start, stop)
        content = memoryview(bytearray(stop - start))
        self.read_into(start, stop, content)
        return content

    def read_into(self, start: int, stop: int, buffer: Buffer) -> None:
        """Copy bytes `[start, stop)` into a writable C-contiguous buffer of that length.

        The buffer's content is undefined when this raises.

        Raises:
            ConfigError: the range is outside the object, or the buffer does not fit it.
            StoreError: a missing block could not be fetched; `ObjectChanged` when the object was
                replaced.
        """
        self._check_range(start, stop)
        view = memoryview(buffer)
        if view.nbytes != stop - start or view.readonly or not view.c_contiguous:
            raise ConfigError(
                f"reading bytes {start} to {stop} of {self.info.key!r} needs a writable contiguous "
                f"buffer of {stop - start} bytes, got {view.nbytes}"
            )
        if start == stop:
            return
        entry = self._cache.entry(self)
        if entry is None:
            self._pass_through(start, stop, view.cast("B"))
            return
        view = view.cast("B")
        missing = self._read_resident(entry, start, stop, view)
        if not missing:
            self._cache.counters.add_all({"cache_hits": 1, "cache_hit_bytes": stop - start})
            return
        began = time.perf_counter()
        try:
            self._fill(entry, start, view, missing)
        finally:
            self._cache.counters.add_all(
                {
                    "cache_misses": 1,
                    "cache_miss_bytes": stop - start,
                    "cache_wait_s": time.perf_counter() - began,
                }
            )

    def resident_bytes(self) -> int:
        """How many of the object's bytes are on the local disk."""
        entry = self._cache.entry(self)
        return entry.blocks.resident_bytes() if entry is not None else 0

    def is_complete(self) -> bool:
        """Whether every block of the object is on the local disk."""
        entry = self._cache.entry(self)
        return entry is not None and entry.blocks.is_complete()

    def close(self) -> None:
        """Say that no more reads come. Idempotent; files are the cache's own affair."""

    def _check_range(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.info.size_bytes:
            raise ConfigError(
                f"bytes {start} to {stop} are outside {self.info.key!r}, "
                f"which has {self.info.size_bytes} bytes"
            )

    def _read_resident(self, entry: Entry, start: int, stop: int, view: memoryview) -> list[int]:
        """Copy what is in memory or on the local disk; return the missing blocks."""
        if not self._cache.holds_blocks:
            return self._read_disk(entry, start, stop, view)
        missing: list[int] = []
        block_bytes = entry.blocks.block_bytes
        on_disk = start  # what lies between here and the next held block is looked for on the disk
        for block in range(start // block_bytes, -(-stop // block_bytes)):
            content = self._cache.held(self.name, block)
            if content is None:
                continue
            first, last = _overlap(block, block_bytes, start, stop)
            missing += self._read_disk(entry, on_disk, first, view[on_disk - start : first - start])
            _copy_from_block(content, block, block_bytes, first, view[first - start : last - start])
            on_disk = last
        return missing + self._read_disk(entry, on_disk, stop, view[on_disk - start :])

    def _read_disk(self, entry: Entry, start: int, stop: int, view: memoryview) -> list[int]:
        if start == stop:
            return []
        outcome = entry.blocks.read(start, stop, view)
        return [] if outcome is None else self._missing(entry, outcome)

    def _missing(self, entry: Entry, outcome: tuple[list[int], int, int, int]) -> list[int]:
        missing, corrupt, io_errors, dropped_bytes = outcome
        if dropped_bytes:
            # Bad blocks are empty from now on; filling them again reserves their room again.
            entry.budget.release(dropped_bytes)
            self._cache.counters.add_all(
                {"cache_blocks_corrupt": corrupt, "cache_io_errors": io_errors}
            )
        return missing

    def _fill(self, entry: Entry, start: int, view: memoryview, missing: list[int]) -> None:
        config = self._cache.config
        per_request = self._cache.request_bytes // config.block_bytes
        limit = _REQUESTS_PER_THREAD * per_request * config.fetch_threads
        left = iter(missing)
        jobs: deque[Job] = deque()
        while more := list(itertools.islice(left, limit - len(jobs))):
            jobs += self._cache.submit(self, entry, more, demand=True)
            for _ in range(min(per_request, len(jobs))):
                self._copy(jobs.popleft(), start, view)
        while jobs:
            self._copy(jobs.popleft(), start, view)

    def _copy(self, job: Job, start: int, view: memoryview) -> None:
        """Wait for a block and copy its part of the object into `view`, which begins at `start`."""
        content = job.future.result()
        blocks = job.entry.blocks
        first, last = _overlap(job.key[1], blocks.block_bytes, start, start + view.nbytes)
        part = view[first - start : last - start]
        if content is not None:
            _copy_from_block(content, job.key[1], blocks.block_bytes, first, part)
        elif self._read_disk(job.entry, first, last, part):
            # Another process filled the block, and it was evicted again before this copy.
            self._pass_through(first, last, part)

    def _pass_through(self, start: int, stop: int, view: memoryview) -> None:
        content = self.store.get_range(self.info.key, start, stop, if_match=self.info.etag or None)
        view[:] = memoryview(content).cast("B")
        self._cache.counters.add_all(
            {"cache_passthrough_reads": 1, "cache_passthrough_bytes": stop - start}
        )


def _overlap(block: int, block_bytes: int, start: int, stop: int) -> tuple[int, int]:
    """The part of a block that lies in `[start, stop)`."""
    return max(start, block * block_bytes), min(stop, (block + 1) * block_bytes)


def _copy_from_block(
    content: Buffer, block: int, block_bytes: int, first: int, part: memoryview
) -> None:
    """Copy object bytes from `first` on out of a block's content; NumPy does it without the GIL."""
    begin = first - block * block_bytes
    source = np.frombuffer(content, np.uint8, len(part), begin)
    np.copyto(np.frombuffer(part, np.uint8), source)
