"""Runtime of a dataset in one process: the store, the cache, and the object of each shard.

A `Runtime` belongs to one process and is made at its first read, so a `Dataset` can be pickled to
worker processes or inherited by a fork and still never shares a connection. Shards are described
once, by one listing; where the store cannot list, each is asked for at its first use. The version
found then is the version read from then on: a shard that changes is `ObjectChanged`.

Bytes come through the cache, or, with the cache switched off, straight from the store: then long
ranges are cut into pieces that several threads fetch at once, since one connection to an object
store is slow. Thread-safe; the lock guards dictionaries and is not held during I/O.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from dataplane.cache import Cache, CacheConfig, CachedObject
from dataplane.cache.read.ranges import pack_ranges
from dataplane.errors import Denied, FormatError, StoreError
from dataplane.stores import Store, open_store
from dataplane.stores.base import Buffer, ObjectInfo, StoreConfig
from dataplane.stores.versions import as_answered
from dataplane.telemetry import Counters, logger

__all__ = ["UINT8", "Bytes", "Runtime", "Spans", "cached_reader", "describe_shards"]

Bytes: TypeAlias = npt.NDArray[np.uint8]
Spans: TypeAlias = "Sequence[tuple[int, int]] | npt.NDArray[np.uint64]"
"""Byte ranges, each with its end; an array has one per row."""

UINT8 = np.dtype(np.uint8)

DIRECT_PIECE_BYTES = 8 << 20
DIRECT_THREADS = 8
"""Pieces under way at once without a cache; 8 MiB at 8 connections fills a 10 Gbit/s line."""

CACHED_PIECE_BYTES = 16 << 20
"""Pieces that an object is read in as a whole: some blocks, to be downloaded at once."""


def describe_shards(store: Store) -> dict[str, ObjectInfo]:
    """List the shards of a dataset; empty when the store cannot list."""
    try:
        return {info.key: info for info in store.list() if info.key.endswith(".tar")}
    except (Denied, StoreError, NotImplementedError) as err:
        logger.debug(
            "cannot list %s (%s): each shard is asked for at its first use", store.url, err
        )
        return {}


def cached_reader(
    store: Store, config: CacheConfig | None
) -> Callable[[ObjectInfo], AbstractContextManager[Iterable[Buffer]]] | None:
    """Return a function that reads objects through the cache in pieces, or None without a cache.

    The cache is left after each: its threads must not be there when worker processes are forked.
    """
    if config is None:
        return None

    @contextmanager
    def read(info: ObjectInfo) -> Iterator[Iterable[Buffer]]:
        with Cache(config) as cache:
            source, size_bytes = cache.open(store, info), info.size_bytes
            yield (
                source.read(start, min(start + CACHED_PIECE_BYTES, size_bytes))
                for start in range(0, size_bytes, CACHED_PIECE_BYTES)
            )

    return read


class Runtime:
    """The store and cache of one dataset in one process. See the module's text.

    Args:
        url: URL of the dataset.
        store_config: configuration of its store.
        cache_config: configuration of the cache, or None for no cache.
        reads_parts: whether parts of arrays are read, for which blocks are small.
        shards: descriptions of shards that are known already, as listed; added to here.
        sizes: length of each shard as the index records it.
        counters: counters of this dataset.
    """

    def __init__(
        self,
        url: str,
        *,
        store_config: StoreConfig | None,
        cache_config: CacheConfig | None,
        shards: dict[str, ObjectInfo],
        sizes: Mapping[str, int],
        counters: Counters,
        reads_parts: bool = False,
    ) -> None:
        self.pid = os.getpid()
        self.store = open_store(url, store_config, counters=counters)
        self.cache: Cache | None = None
        self._large_block_bytes: int | None = None
        if cache_config is not None:
            self.cache = Cache.shared(cache_config.for_parts() if reads_parts else cache_config)
            if self.cache.config.block_bytes < cache_config.block_bytes:
                self._large_block_bytes = cache_config.block_bytes
        self._shards = shards
        self._versions: dict[str, ObjectInfo] = {}
        self._sizes = sizes
        self._objects: dict[str, CachedObject] = {}
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    @property
    def stored_bytes(self) -> int:
        """Size of all shards."""
        return sum(self._sizes.values())

    def describe(self, shard: str) -> ObjectInfo:
        """Return the version of a shard that this run reads.

        Raises:
            NotFound: there is no such shard.
            FormatError: it has another length than the index says.
        """
        with self._lock:
            info, known = self._versions.get(shard), self._shards.get(shard)
        if info is None:
            found = self.store.head(shard) if known is None else as_answered(self.store, known)
            with self._lock:
                info = self._shards[shard] = self._versions.setdefault(shard, found)
        expected = self._sizes.get(shard, info.size_bytes)
        if info.size_bytes != expected:
            raise FormatError(
                f"{self.store.url}: shard {shard} has {info.size_bytes} bytes, "
                f"the index says {expected}",
                hint="the copy is incomplete, or the dataset was packed again; copy it anew",
            )
        return info

    def object(self, shard: str) -> CachedObject | None:
        """Return a shard as the cache sees it, or None without a cache."""
        if self.cache is None:
            return None
        with self._lock:
            found = self._objects.get(shard)
        large = self._large_block_bytes
        if found is not None and (found.spec.block_bytes != large or found.is_complete()):
            return found
        info = self.describe(shard)
        opened = self.cache.open(self.store, info)
        if large is not None and found is None:
            whole = self.cache.open(self.store, info, block_bytes=large)
            if whole.found_bytes() >= info.size_bytes:
                opened = whole  # by others that read all of it, for as long as all of it is there
        with self._lock:
            if self._objects.get(shard) is found:
                self._objects[shard] = opened
            return self._objects.get(shard, opened)

    def read(self, shard: str, spans: Spans, out: Bytes) -> None:
        """Read byte ranges of a shard one after another into `out`, which they fill exactly."""
        source = self.object(shard)
        if source is None:
            self.read_direct(shard, spans, out)
            return
        source.read_ranges_into(pack_ranges(spans), out.data)

    def read_direct(self, shard: str, spans: Spans, out: Bytes) -> None:
        """Read byte ranges past the cache, as `read` does otherwise."""
        info = self.describe(shard)
        pieces: list[tuple[int, int, int]] = []
        position = 0
        for start, stop in np.asarray(spans, np.uint64).reshape(-1, 2).tolist():
            for piece in range(start, stop, DIRECT_PIECE_BYTES):
                piece_stop = min(piece + DIRECT_PIECE_BYTES, stop)
                pieces.append((position, piece, piece_stop))
                position += piece_stop - piece

        def fetch(place: int, start: int, stop: int) -> None:
            content = self.store.get_range(shard, start, stop, if_match=info.etag)
            out[place : place + stop - start] = np.frombuffer(content, np.uint8)

        if len(pieces) == 1:
            fetch(*pieces[0])
            return
        waiting: list[Future[None]] = [self._pool().submit(fetch, *piece) for piece in pieces]
        try:
            for future in waiting:
                future.result()
        finally:
            for future in waiting:
                future.cancel()
            # `out` is reused by the caller: no thread may still be writing into it after an error.
            for future in waiting:
                if not future.cancelled():
                    future.exception()

    def close(self) -> None:
        """Drop connections and open files. Idempotent."""
        with self._lock:
            self._objects = {}
            executor, self._executor = self._executor, None
        if self.pid != os.getpid():
            return
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)
        self.store.close()

    def _pool(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(DIRECT_THREADS, thread_name_prefix="dp-direct")
            return self._executor
