"""The filesystem's view of the cache: one store, read through one `dataplane.cache.Cache`.

Keeps no state of its own. Thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterator

from dataplane.cache import Cache, CachedObject, PlannedRead, Prefetch
from dataplane.stores.base import Buffer, ObjectInfo, Store

__all__ = ["CacheBlocks"]


class CacheBlocks:
    """Reads objects of `store` through `cache`."""

    def __init__(self, store: Store, cache: Cache) -> None:
        self._store = store
        self._cache = cache

    @property
    def block_bytes(self) -> int:
        """The cache's unit of download."""
        return self._cache.config.block_bytes

    def open(self, info: ObjectInfo) -> CachedObject:
        """Open one object version; makes no request."""
        return self._cache.open(self._store, info)

    def read(self, info: ObjectInfo, start: int, stop: int) -> Buffer:
        """Read bytes of an object that is not kept open."""
        source = self._cache.open(self._store, info)
        try:
            return source.read(start, stop)
        finally:
            source.close()

    def fetch_ahead(self, info: ObjectInfo, start: int, stop: int, window_bytes: int) -> Prefetch:
        """Fetch `[start, stop)` in order within a window; steps are block numbers."""
        reads = _block_reads(self.open(info), start, stop, self.block_bytes)
        return self._cache.prefetch(reads, window_bytes=window_bytes)


def _block_reads(
    reader: CachedObject, start: int, stop: int, block_bytes: int
) -> Iterator[PlannedRead]:
    while start < stop:
        step = start // block_bytes
        end = min((step + 1) * block_bytes, stop)
        yield PlannedRead(reader, start, end, step)
        start = end
