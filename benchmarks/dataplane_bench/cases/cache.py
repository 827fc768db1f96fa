"""What the cache costs: warm reads beside a plain `pread`, a cold fill beside raw ranged GETs.

Warm reads copy ranges of one fully cached object into reused memory; the ceiling reads the same
ranges of a plain file on the same file system with `preadv`. Both files are in the page cache, so
that the cost of our bookkeeping shows and not that of the disk.

A cold fill plans one object front to back in an empty cache directory, takes each block as it comes
and waits until the disk has all of them. One ceiling asks for the same blocks with the same client
and as many threads, and drops them; the other writes as many blocks to the disk, past the page
cache. A fill cannot be faster than the slower of the two.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import mmap
import os
import random
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from dataplane.cache import Cache, CacheConfig, PlannedRead
from dataplane.stores import open_store
from dataplane.stores.base import ObjectInfo
from dataplane.testing.s3 import S3Endpoint
from dataplane_bench.model import CEILING_PREFIX, OUR_SYSTEM, Case, Cost, Row, System, summarise
from dataplane_bench.rounds import run_rounds, start_all, timed

__all__ = ["CacheOptions", "run"]

_BUCKET = "bench"
_KEY = "object"
_PREAD = f"{CEILING_PREFIX}pread"
_RAW_GET = f"{CEILING_PREFIX}raw-get"
_DISK = f"{CEILING_PREFIX}disk write"
_POLL_S = 0.001


@dataclasses.dataclass(frozen=True, slots=True)
class CacheOptions:
    """What to read and how often.

    Attributes:
        cache_dir: where cache directories are made; the system's temporary folder when None.
        object_bytes: size of the object.
        range_bytes: lengths of warm reads, one comparison each.
        reads: warm reads of 4 MiB per run; shorter ones are as many more, at most 64 times.
        fetch_threads: downloads under way at once.
        encrypt: whether the cache is encrypted.
        rounds: counted rounds; one more warms up.
        seed: of the content, the offsets and the order of systems.
    """

    cache_dir: Path | None = None
    object_bytes: int = 512 << 20
    range_bytes: tuple[int, ...] = (4 << 20, 64 << 10)
    reads: int = 256
    fetch_threads: int = 8
    encrypt: bool = False
    rounds: int = 5
    seed: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class CacheInput:
    """One object, the folder to cache it in, and the ranges of warm reads."""

    url: str
    info: ObjectInfo
    folder: Path
    ranges: tuple[tuple[int, int], ...]
    fetch_threads: int
    encrypt: bool
    environment: dict[str, str]


def run(options: CacheOptions, progress: Callable[[str], None]) -> list[Row]:
    """Write the object, run every comparison, remove everything."""
    rows: list[Row] = []
    with ExitStack() as stack:
        make = functools.partial(tempfile.TemporaryDirectory, prefix="dataplane-bench-")
        folder = Path(stack.enter_context(make(dir=options.cache_dir)))
        endpoint = stack.enter_context(
            S3Endpoint(root=Path(stack.enter_context(make())), buckets=(_BUCKET,))
        )
        environment = endpoint.environment()
        stack.enter_context(endpoint.exported())
        url = f"s3://{_BUCKET}"
        store = open_store(url)
        stack.callback(store.close)
        progress("writing the object")
        info = store.put(_KEY, np.random.default_rng(options.seed).bytes(options.object_bytes))
        given = CacheInput(
            url, info, folder, (), options.fetch_threads, options.encrypt, environment
        )
        dataset = "one object, encrypted" if options.encrypt else "one object"
        for range_bytes in options.range_bytes:
            warm = dataclasses.replace(given, ranges=_ranges(options, range_bytes))
            case = Case("cache", dataset, chunk_bytes=range_bytes, state="warm")
            rows += _compare(case, warm, (WarmReads, Preads), options, progress)
        case = Case("cache", dataset, chunk_bytes=CacheConfig().block_bytes, state="cold")
        rows += _compare(case, given, (ColdFill, RawGets, DiskWrites), options, progress)
    return rows


def _ranges(options: CacheOptions, range_bytes: int) -> tuple[tuple[int, int], ...]:
    random_ = random.Random(options.seed)
    slots = max(1, options.object_bytes // range_bytes)
    count = options.reads * min(64, max(1, (4 << 20) // range_bytes))
    starts = [random_.randrange(slots) * range_bytes for _ in range(count)]
    return tuple((s, min(s + range_bytes, options.object_bytes)) for s in starts)


def _compare(
    case: Case,
    given: CacheInput,
    systems: tuple[type[WarmReads | Preads | ColdFill | RawGets | DiskWrites], ...],
    options: CacheOptions,
    progress: Callable[[str], None],
) -> list[Row]:
    contenders: list[tuple[str, int, Callable[[], System]]] = [
        (system.name, system.threads_for(given), functools.partial(system, given))
        for system in systems
    ]
    alive, costs = run_rounds(
        start_all(contenders, progress),
        rounds=options.rounds,
        warmup=1,
        seed=options.seed,
        progress=progress,
    )
    return summarise(case, alive, costs, ceiling=systems[1].name)


class _OneThread:
    """Reads all ranges into the same memory."""

    name = "reads"
    threads = 1

    def __init__(self, given: CacheInput) -> None:
        os.environ.update(given.environment)
        self.given = given
        self._memory = memoryview(bytearray(max(stop - start for start, stop in given.ranges)))

    @staticmethod
    def threads_for(given: CacheInput) -> int:
        """Threads that it reads with."""
        del given
        return 1

    def run(self) -> Cost:
        """Read every range once."""
        return timed(
            lambda: sum(self.read(*piece) for piece in self.given.ranges),
            samples=len(self.given.ranges),
        )

    def read(self, start: int, stop: int) -> int:
        """Read one range and return its length."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing stays open but what ends with the process."""


class WarmReads(_OneThread):
    """`CachedObject.read_into` of an object that is wholly in the cache."""

    name = OUR_SYSTEM

    def __init__(self, given: CacheInput) -> None:
        super().__init__(given)
        self._cache = Cache(
            CacheConfig(dir=given.folder / f"warm-{uuid.uuid4().hex}", encrypt=given.encrypt)
        )
        self._blob = self._cache.open(open_store(given.url), given.info)
        whole = memoryview(bytearray(given.info.size_bytes))
        self._blob.read_into(0, given.info.size_bytes, whole)
        self._blob.read_into(0, given.info.size_bytes, whole)  # into the page cache
        assert self._blob.is_complete()

    def read(self, start: int, stop: int) -> int:
        """Read one range."""
        self._blob.read_into(start, stop, self._memory[: stop - start])
        return stop - start

    def close(self) -> None:
        """Leave the cache and remove it."""
        self._cache.close()
        shutil.rmtree(self._cache.config.dir, ignore_errors=True)


class Preads(_OneThread):
    """The ceiling: `preadv` of a plain file with as many bytes."""

    name = _PREAD

    def __init__(self, given: CacheInput) -> None:
        super().__init__(given)
        self._path = given.folder / f"plain-{uuid.uuid4().hex}"
        self._path.write_bytes(os.urandom(1 << 20) * -(-given.info.size_bytes >> 20))
        self._fd = os.open(self._path, os.O_RDONLY)

    def read(self, start: int, stop: int) -> int:
        """Read one range."""
        return os.preadv(self._fd, [self._memory[: stop - start]], start)

    def close(self) -> None:
        """Remove the file."""
        os.close(self._fd)
        self._path.unlink(missing_ok=True)


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
        """Threads that download."""
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
        memory = memoryview(bytearray(block_bytes))
        pieces = [(a, min(a + block_bytes, size)) for a in range(0, size, block_bytes)]
        reads = [PlannedRead(blob, *piece, step) for step, piece in enumerate(pieces)]
        with cache.prefetch(reads) as ahead:
            for step, (start, stop) in enumerate(pieces):
                blob.read_into(start, stop, memory[: stop - start])
                ahead.advance(step + 1)
            while not blob.is_complete():
                time.sleep(_POLL_S)
        return size


class RawGets:
    """The ceiling: the same blocks asked for by as many threads and dropped."""

    name = _RAW_GET

    def __init__(self, given: CacheInput) -> None:
        os.environ.update(given.environment)
        self.threads = self.threads_for(given)
        self._given = given
        self._store = open_store(given.url)
        self._pool = ThreadPoolExecutor(self.threads)

    @staticmethod
    def threads_for(given: CacheInput) -> int:
        """Threads that download."""
        return given.fetch_threads

    def run(self) -> Cost:
        """Get every block once."""
        size, block_bytes = self._given.info.size_bytes, CacheConfig().block_bytes
        starts = range(0, size, block_bytes)

        def get(start: int) -> int:
            stop = min(start + block_bytes, size)
            return len(self._store.get_range(_KEY, start, stop, if_match=self._given.info.etag))

        return timed(lambda: sum(self._pool.map(get, starts)), samples=1)

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()
        self._store.close()


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
        """Threads that write."""
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
