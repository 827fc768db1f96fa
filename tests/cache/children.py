"""What the processes do that the tests of this folder start (spawned, so importable)."""

from __future__ import annotations

import os
import random
import time
from contextlib import ExitStack
from pathlib import Path

from dataplane.cache import Cache, CacheConfig
from dataplane.cache.disk.directory import Directory
from dataplane.cache.disk.host_semaphore import HostSemaphore
from dataplane.stores.base import ObjectInfo
from dataplane.telemetry import Counters
from tests.cache.fakes import FolderStore, read_all


def read_whole(config: CacheConfig, store: FolderStore, info: ObjectInfo, start: Path) -> None:
    """Read everything as soon as the file `start` exists."""
    with Cache(config) as cache:
        blob = cache.open(store, info)
        wait_for(start)
        expected = store.content_of(info.key)
        assert read_all(blob) == expected


def read_forever(config: CacheConfig, store: FolderStore, infos: list[ObjectInfo]) -> None:
    """Read random ranges until killed."""
    dice = random.Random(os.getpid())
    cache = Cache(config)
    blobs = [cache.open(store, info) for info in infos]
    while True:
        blob = dice.choice(blobs)
        start = dice.randrange(blob.info.size_bytes)
        blob.read(start, min(blob.info.size_bytes, start + 40_000))


def read_for(config: CacheConfig, store: FolderStore, infos: list[ObjectInfo], seconds: float):
    """Read random ranges and compare each with the object; keeps the budget in view."""
    dice = random.Random(os.getpid())
    contents = {info.key: store.content_of(info.key) for info in infos}
    deadline = time.monotonic() + seconds
    with Cache(config) as cache:
        blobs = [cache.open(store, info) for info in infos]
        while time.monotonic() < deadline:
            blob = dice.choice(blobs)
            start = dice.randrange(blob.info.size_bytes)
            stop = min(blob.info.size_bytes, start + dice.randrange(1, 60_000))
            assert bytes(blob.read(start, stop)) == contents[blob.info.key][start:stop]
            assert config.size_bytes is None or cache.usage_bytes() <= 1.5 * config.size_bytes
        # Four times the budget is read, by each: one that evicts nothing does not use the cache.
        assert cache.counters["cache_evicted_bytes"] > 0


def take_places(folder: Path, store: str, count: int, ready: Path) -> None:
    """Take places at a store, make the file `ready`, and keep them until killed."""
    mine = HostSemaphore(Directory(folder), count, Counters())
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(mine.at(store))
        ready.touch()
        time.sleep(600)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def hold_mapped(
    config: CacheConfig, store: FolderStore, info: ObjectInfo, span: tuple[int, int], ready: Path
) -> None:
    """Lease a range, make the file `ready`, and hold it until killed."""
    with Cache(config) as cache:
        ranges = cache.open(store, info).mapped([span])
        assert ranges is not None
        with memoryview(ranges[0]):
            ready.touch()
            time.sleep(600)


def read_mapped_for(
    config: CacheConfig,
    store: FolderStore,
    infos: list[ObjectInfo],
    count: int,
    report: Path,
) -> None:
    """Read `count` random ranges in place, and more that cannot be, and compare each several times.

    Writes how many were mapped, how many leases were refused, and how many blocks it evicted.
    """
    dice = random.Random(os.getpid())
    contents = {info.key: store.content_of(info.key) for info in infos}
    mapped = 0
    with Cache(config) as cache:
        blobs = [cache.open(store, info) for info in infos]

        def churn() -> None:
            for _ in range(dice.randrange(40)):
                other = dice.choice(blobs)
                first = dice.randrange(other.info.size_bytes)
                other.read(first, min(other.info.size_bytes, first + 8000))

        while mapped < count:
            blob = dice.choice(blobs)
            start = dice.randrange(blob.info.size_bytes)
            stop = min(blob.info.size_bytes, start + dice.randrange(1, 10_000))
            expected = contents[blob.info.key][start:stop]
            if dice.random() < 0.7:
                assert blob.read(start, stop) == expected  # it is there now, for a moment
            ranges = blob.mapped([(start, stop)])
            if ranges is None:
                assert blob.read(start, stop) == expected
                continue
            if dice.random() < 0.3:
                churn()  # it may be evicted before its use
            with memoryview(ranges[0]) as shown:
                assert shown == expected
                if dice.random() < 0.3:
                    churn()  # by then it is the oldest, and stays all the same
                assert shown == expected
            mapped += 1
        counters = cache.counters
        report.write_text(
            f"{mapped} {int(counters['cache_leases_refused'])} "
            f"{int(counters['cache_evicted_blocks'])}"
        )
