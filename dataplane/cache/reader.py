"""`CachedObject`: one object version read through the cache.

A read first copies what is on the local disk, in the native module and without the GIL. For the
blocks that were missing it asks the fetcher, waits, and copies them too; a block that could not be
kept is copied from the download itself. When the cache cannot be used, reads go to the store.

Thread-safe. Holds no files: open entries belong to the cache, which keeps a bounded number of them.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from dataplane.cache.entries import Entry
from dataplane.cache.fetch import Job
from dataplane.cache.spec import EntrySpec
from dataplane.errors import ConfigError
from dataplane.stores.base import ObjectInfo, Store

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from dataplane.cache.cache import Cache

__all__ = ["CachedObject"]

# One read keeps this many downloads per thread in its memory at most.
_JOBS_PER_THREAD = 2


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
        outcome = entry.blocks.read(start, stop, view)
        if outcome is None:
            self._cache.counters.add_all({"cache_hits": 1, "cache_hit_bytes": stop - start})
            return
        began = time.perf_counter()
        try:
            self._fill(entry, start, view.cast("B"), self._missing(entry, outcome))
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
        limit = _JOBS_PER_THREAD * self._cache.config.fetch_threads
        jobs: deque[Job] = deque()
        for block in missing:
            if len(jobs) >= limit:
                self._copy(jobs.popleft(), start, view)
            jobs.append(self._cache.submit(self, entry, block, demand=True))
        while jobs:
            self._copy(jobs.popleft(), start, view)

    def _copy(self, job: Job, start: int, view: memoryview) -> None:
        """Wait for a block and copy its part of the object into `view`, which begins at `start`."""
        content = job.future.result()
        blocks = job.entry.blocks
        block_start = job.key[1] * blocks.block_bytes
        first = max(start, block_start)
        last = min(start + view.nbytes, block_start + blocks.block_bytes)
        part = view[first - start : last - start]
        outcome = blocks.read(first, last, part)
        if outcome is None:
            return
        self._missing(job.entry, outcome)
        if content is not None:
            part[:] = memoryview(content).cast("B")[first - block_start : last - block_start]
        else:  # another process filled the block, and it was evicted again before this copy
            self._pass_through(first, last, part)

    def _pass_through(self, start: int, stop: int, view: memoryview) -> None:
        content = self.store.get_range(self.info.key, start, stop, if_match=self.info.etag or None)
        view[:] = memoryview(content).cast("B")
        self._cache.counters.add_all(
            {"cache_passthrough_reads": 1, "cache_passthrough_bytes": stop - start}
        )
