"""Warm reads of `dataplane bench cache`, beside plain `preadv` calls.

Warm reads copy ranges of one fully cached object into reused memory; the ceiling reads the same
ranges of a cache's data file. Both files are in the page cache, and came there in the same way (a
file that was written through it can be read faster than one that was read into it), so that the
cost of our bookkeeping shows and not that of the disk. Batches read many small ranges in one call,
to places one after another; the ceiling reads each to the same place with a call of its own.
"""

from __future__ import annotations

import os
import shutil
import uuid

from dataplane.cache import Cache, CacheConfig, CachedObject
from dataplane.cache.read.ranges import Ranges, pack_ranges
from dataplane.stores import open_store
from dataplane_bench.cases.cache_fill import CacheInput
from dataplane_bench.model import CEILING_PREFIX, OUR_SYSTEM, Cost
from dataplane_bench.rounds import timed

__all__ = ["BatchPreads", "OneThread", "Preads", "WarmBatches", "WarmReads"]

_PREAD = f"{CEILING_PREFIX}pread"


class OneThread:
    """A system that reads all ranges, or batches of them, into the same memory."""

    name = "reads"
    threads = 1

    def __init__(self, given: CacheInput) -> None:
        os.environ.update(given.environment)
        self.given = given
        longest = max(stop - start for start, stop in given.ranges)
        self._memory = memoryview(bytearray(given.batch * longest))

    @staticmethod
    def threads_for(given: CacheInput) -> int:
        """Number of threads that it reads with."""
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


class WarmReads(OneThread):
    """`CachedObject.read_into` of an object that is wholly in the cache."""

    name = OUR_SYSTEM

    def __init__(self, given: CacheInput) -> None:
        super().__init__(given)
        self._cache, self._blob = _filled(given, encrypt=given.encrypt)

    def read(self, start: int, stop: int) -> int:
        """Read one range."""
        self._blob.read_into(start, stop, self._memory[: stop - start])
        return stop - start

    def close(self) -> None:
        """Leave the cache and remove it."""
        self._cache.close()
        shutil.rmtree(self._cache.config.dir, ignore_errors=True)


class Preads(OneThread):
    """The ceiling: `preadv` of the data file of a cache of its own, in the clear."""

    name = _PREAD

    def __init__(self, given: CacheInput) -> None:
        super().__init__(given)
        self._cache, _ = _filled(given, encrypt=False)
        (path,) = self._cache.config.dir.glob("entries/*/*.data")
        self._fd = os.open(path, os.O_RDONLY)

    def read(self, start: int, stop: int) -> int:
        """Read one range."""
        return os.preadv(self._fd, [self._memory[: stop - start]], start)

    def close(self) -> None:
        """Leave the cache and remove it."""
        os.close(self._fd)
        self._cache.close()
        shutil.rmtree(self._cache.config.dir, ignore_errors=True)


def _filled(given: CacheInput, *, encrypt: bool) -> tuple[Cache, CachedObject]:
    """Return a cache of its own that holds the whole object, in the page cache too."""
    folder = given.folder / f"warm-{uuid.uuid4().hex}"
    cache = Cache(CacheConfig(dir=folder, encrypt=encrypt))
    blob = cache.open(open_store(given.url), given.info)
    whole = memoryview(bytearray(given.info.size_bytes))
    blob.read_into(0, given.info.size_bytes, whole)
    blob.read_into(0, given.info.size_bytes, whole)
    assert blob.is_complete()
    return cache, blob


class WarmBatches(WarmReads):
    """`CachedObject.read_ranges_into` of an object that is wholly in the cache."""

    def __init__(self, given: CacheInput) -> None:
        super().__init__(given)
        self._tables = [pack_ranges(pieces) for pieces in _batches(given)]

    def run(self) -> Cost:
        """Read every range once."""
        return timed(
            lambda: sum(self._read_batch(table) for table in self._tables),
            samples=len(self.given.ranges),
        )

    def _read_batch(self, table: Ranges) -> int:
        nbytes = int(table[-1, 2] + table[-1, 1] - table[-1, 0])
        self._blob.read_ranges_into(table, self._memory)
        return nbytes


class BatchPreads(Preads):
    """The ceiling: as many `preadv` to the same places."""

    def __init__(self, given: CacheInput) -> None:
        super().__init__(given)
        self._tables = [pack_ranges(pieces).tolist() for pieces in _batches(given)]

    def run(self) -> Cost:
        """Read every range once."""
        return timed(
            lambda: sum(self._read_batch(table) for table in self._tables),
            samples=len(self.given.ranges),
        )

    def _read_batch(self, table: list[list[int]]) -> int:
        fd, memory = self._fd, self._memory
        return sum(
            os.preadv(fd, [memory[place : place + stop - start]], start)
            for start, stop, place in table
        )


def _batches(given: CacheInput) -> list[tuple[tuple[int, int], ...]]:
    return [
        given.ranges[first : first + given.batch]
        for first in range(0, len(given.ranges), given.batch)
    ]
