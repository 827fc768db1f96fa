"""Cold fill: the systems of that part of `dataplane bench cache`.

A cold fill plans one object front to back in an empty cache directory, takes each block as it comes
and waits until the disk has all of them. Three ceilings ask for the same bytes with as many
threads, and drop them: a block with each request of the client library, as much as the fill may ask
for at once, and that much the way that the fill receives it. A fourth writes as many blocks to the
disk, past the page cache. A fifth, over TLS, is OpenSSL that decrypts into memory of its caller. No
fill is faster than the slower of network and disk.
"""

from __future__ import annotations

import dataclasses
import itertools
import mmap
import os
import shutil
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from dataplane.cache import Cache, CacheConfig, PlannedRead
from dataplane.stores import open_store
from dataplane.stores.base import ObjectInfo
from dataplane.units import format_bytes
from dataplane_bench.model import CEILING_PREFIX, OUR_SYSTEM, Cost
from dataplane_bench.raw_socket import RawConnections
from dataplane_bench.rounds import timed

__all__ = [
    "KEY",
    "CacheInput",
    "ColdFill",
    "DiskWrites",
    "RawGets",
    "RawOpenSsl",
    "RawRequests",
    "RawStreams",
]

KEY = "object"
_RAW_GET = f"{CEILING_PREFIX}raw-get"
_RAW_REQUEST = f"{CEILING_PREFIX}raw-get of {format_bytes(CacheConfig().request_bytes)}"
_RAW_STREAM = f"{CEILING_PREFIX}stream of {format_bytes(CacheConfig().request_bytes)}"
_DISK = f"{CEILING_PREFIX}disk write"
_OPENSSL = f"{CEILING_PREFIX}openssl"
_POLL_S = 0.001


@dataclasses.dataclass(frozen=True, slots=True)
class CacheInput:
    """One object, the folder to cache it in, and the ranges of warm reads, `batch` at a time."""

    url: str
    info: ObjectInfo
    folder: Path
    ranges: tuple[tuple[int, int], ...]
    fetch_threads: int
    encrypt: bool
    environment: dict[str, str]
    batch: int = 1


class ColdFill:
    """A planned pass over the object in an empty cache, until the disk has every block."""

    name = OUR_SYSTEM

    def __init__(self, given: CacheInput) -> None:
        os.environ.update(given.environment)
        self.threads = self.threads_for(given)
        self._given = given
        self._store = open_store(given.url)
        self._numbers = itertools.count()

    @staticmethod
    def threads_for(given: CacheInput) -> int:
        """Number of threads that download."""
        return given.fetch_threads

    def run(self) -> Cost:
        """Fill a new cache directory, and remove it outside of the measured time."""
        given = self._given
        folder = given.folder / f"cold-{os.getpid()}-{next(self._numbers)}"
        config = CacheConfig(dir=folder, fetch_threads=given.fetch_threads, encrypt=given.encrypt)
        with Cache(config) as cache:
            cost = timed(lambda: self._fill(cache), samples=1)
            fetched = int(cache.counters["cache_fetch_bytes"])
        shutil.rmtree(folder)
        return dataclasses.replace(cost, bytes_fetched=fetched)

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def _fill(self, cache: Cache) -> int:
        size, block_bytes = self._given.info.size_bytes, cache.config.block_bytes
        blob = cache.open(self._store, self._given.info)
        pieces = [(a, min(a + block_bytes, size)) for a in range(0, size, block_bytes)]
        reads = [PlannedRead(blob, *piece, step) for step, piece in enumerate(pieces)]
        with cache.plan(reads) as ahead:
            for step, (start, stop) in enumerate(pieces):
                blob.view(start, stop)
                ahead.advance(step + 1)
            while not blob.is_complete():
                time.sleep(_POLL_S)
        return size


class RawGets:
    """The ceiling: the same blocks, fetched by as many threads and dropped."""

    name = _RAW_GET
    get_bytes = CacheConfig().block_bytes

    def __init__(self, given: CacheInput) -> None:
        os.environ.update(given.environment)
        self.threads = self.threads_for(given)
        self._given = given
        self._store = open_store(given.url)
        self._pool = ThreadPoolExecutor(self.threads)

    @staticmethod
    def threads_for(given: CacheInput) -> int:
        """Number of threads that download."""
        return given.fetch_threads

    def run(self) -> Cost:
        """Get every block once."""
        size = self._given.info.size_bytes
        starts = range(0, size, self.get_bytes)

        def get(start: int) -> int:
            return self._get(start, min(start + self.get_bytes, size))

        return timed(lambda: sum(self._pool.map(get, starts)), samples=1)

    def _get(self, start: int, stop: int) -> int:
        etag = self._given.info.etag
        return len(self._store.get_range(KEY, start, stop, if_match=etag))

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()
        self._store.close()


class RawRequests(RawGets):
    """A ceiling: the largest requests that the cold fill may make, held in memory whole."""

    name = _RAW_REQUEST
    get_bytes = CacheConfig().request_bytes


class RawStreams(RawRequests):
    """A ceiling: the same requests, made and received as by the cold fill, and dropped."""

    name = _RAW_STREAM

    def _get(self, start: int, stop: int) -> int:
        block_bytes = CacheConfig().block_bytes
        etag = self._given.info.etag
        pieces = self._store.stream_range(KEY, start, stop, piece_bytes=block_bytes, if_match=etag)
        return sum(memoryview(piece).nbytes for piece in pieces)


class RawOpenSsl(RawGets):
    """A ceiling: 8 MiB a request, decrypted by OpenSSL into memory allocated once."""

    name = _OPENSSL
    get_bytes = 8 << 20

    def __init__(self, given: CacheInput) -> None:
        super().__init__(given)
        bucket = urlsplit(given.url).netloc
        self._raw = RawConnections(given.environment, bucket, KEY, self.get_bytes)

    def _get(self, start: int, stop: int) -> int:
        return self._raw.get(start, stop)

    def close(self) -> None:
        """Stop the threads, close their connections."""
        super().close()
        self._raw.close()


class DiskWrites:
    """A ceiling: as many blocks written by as many threads past the page cache."""

    name = _DISK

    def __init__(self, given: CacheInput) -> None:
        self.threads = self.threads_for(given)
        self._given = given
        self._pool = ThreadPoolExecutor(self.threads)
        self._block = mmap.mmap(-1, CacheConfig().block_bytes)  # on a page boundary
        self._block.write(os.urandom(len(self._block)))

    @staticmethod
    def threads_for(given: CacheInput) -> int:
        """Number of threads that write."""
        return given.fetch_threads

    def run(self) -> Cost:
        """Fill a new file, and remove it outside of the measured time."""
        path = self._given.folder / f"written-{os.getpid()}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _direct_flag(path.parent))
        try:
            os.ftruncate(fd, self._given.info.size_bytes)
            starts = range(0, self._given.info.size_bytes, len(self._block))
            return timed(
                lambda: sum(self._pool.map(lambda at: os.pwrite(fd, self._block, at), starts)),
                samples=1,
            )
        finally:
            os.close(fd)
            path.unlink()

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()


def _direct_flag(folder: Path) -> int:
    """O_DIRECT, where the file system has it."""
    probe = folder / f"probe-{uuid.uuid4().hex}"
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_DIRECT))
    except OSError:
        return 0
    finally:
        probe.unlink(missing_ok=True)
    return os.O_DIRECT
