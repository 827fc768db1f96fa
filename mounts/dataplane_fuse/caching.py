"""Adapter of the cache for the filesystem: one store, read through one `dataplane.cache.Cache`.

Keeps no state of its own. Thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterator

from dataplane.cache import Cache, CachedObject, Plan, PlannedRead
from dataplane.stores.base import Buffer, ObjectInfo, Store

__all__ = ["CacheBlocks", "HeldObject"]


class HeldObject:
    """An object that a program has open, with a lease: evicted only when nothing else is left."""

    __slots__ = ("_lease", "_source")

    def __init__(self, cache: Cache, source: CachedObject) -> None:
        self._source = source
        self._lease = cache.lease(source)

    def read_into(self, start: int, stop: int, buffer: memoryview) -> None:
        """Fill `buffer` with bytes `[start, stop)` of the object."""
        self._source.read_into(start, stop, buffer)

    def is_complete(self) -> bool:
        """Whether every byte is in the cache."""
        return self._source.is_complete()

    def close(self) -> None:
        """Let go of the object. Idempotent."""
        self._lease.close()


class CacheBlocks:
    """Reader of the objects of `store` through `cache`."""

    def __init__(self, store: Store, cache: Cache) -> None:
        self._store = store
        self._cache = cache

    @property
    def block_bytes(self) -> int:
        """The cache's unit of download."""
        return self._cache.config.block_bytes

    def open(self, info: ObjectInfo) -> HeldObject:
        """Open one object version and keep it from being evicted first; makes no request."""
        return HeldObject(self._cache, self._cache.open(self._store, info))

    def read(self, info: ObjectInfo, start: int, stop: int) -> Buffer:
        """Read bytes of an object that is not kept open."""
        return self._cache.open(self._store, info).read(start, stop)

    def fetch_ahead(self, info: ObjectInfo, start: int, stop: int, window_bytes: int) -> Plan:
        """Fetch `[start, stop)` in order within a window; steps are block numbers."""
        reads = _block_reads(self._cache.open(self._store, info), start, stop, self.block_bytes)
        return self._cache.plan(reads, window_bytes=window_bytes)


def _block_reads(
    reader: CachedObject, start: int, stop: int, block_bytes: int
) -> Iterator[PlannedRead]:
    while start < stop:
        step = start // block_bytes
        end = min((step + 1) * block_bytes, stop)
        yield PlannedRead(reader, start, end, step)
        start = end
