"""A cache on btrfs keeps to its budget, on the disk and not only in its own count."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.cache import Cache, CacheConfig
from dataplane.stores import open_store
from tests.cache.fakes import wait_until
from tests.cache.inside import entry_of

_MIB = 1 << 20
_BUDGET = 48 * _MIB
_OBJECT = 16 * _MIB
_OF_THE_FILE_SYSTEM = 6 * _MIB  # its trees, checksums of the data included


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A fresh btrfs in a file, mounted; or a skip that says why not."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a btrfs")
    if shutil.which("mkfs.btrfs") is None:
        pytest.skip("mkfs.btrfs is not installed (Debian package btrfs-progs)")
    image, point = tmp_path / "image", tmp_path / "volume"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(400 * _MIB)
    subprocess.run(["mkfs.btrfs", "-q", "-f", image], check=True, capture_output=True)
    mount = ["mount", "-t", "btrfs", "-o", "loop", image, point]
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a btrfs cannot be mounted here: {done.stderr.strip()}")
    yield point
    subprocess.run(["umount", point], check=True)


def _taken(volume: Path) -> int:
    subprocess.run(["sync", "-f", volume], check=True)
    status = os.statvfs(volume)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


@pytest.mark.parametrize("block_bytes", [_MIB // 2, 64 << 10])
@pytest.mark.parametrize("direct_io", [True, False])
def test_the_disk_holds_no_more_than_the_budget(
    volume: Path, block_bytes: int, *, direct_io: bool
) -> None:
    store = open_store(f"memory://btrfs-{direct_io}-{block_bytes}")
    infos = [store.put(f"object-{number}", os.urandom(_OBJECT)) for number in range(8)]
    before = _taken(volume)
    chance = random.Random(1)
    config = CacheConfig(
        dir=volume / "cache", size_bytes=_BUDGET, block_bytes=block_bytes, direct_io=direct_io
    )
    most = 0
    with Cache(config) as cache:
        sources = [cache.open(store, info) for info in infos]
        for number in range(120):
            start = chance.randrange(_OBJECT - 5 * _MIB)
            chance.choice(sources).read(start, start + chance.choice([4096, _MIB, 5 * _MIB]))
            if number % 10 == 9:
                most = max(most, _taken(volume) - before)
        files = [path for path in config.dir.rglob("*") if path.is_file()]
        allocated = sum(path.stat().st_blocks * 512 for path in files)
        assert cache.counters["cache_evicted_bytes"] > 2 * _BUDGET
        assert cache.counters["cache_uncached_blocks"] == 0
        assert abs(allocated - cache.usage_bytes()) < _MIB
    assert most < _BUDGET + _OF_THE_FILE_SYSTEM


@pytest.mark.parametrize("direct_io", [True, False])
def test_an_evicted_block_frees_its_space_though_it_came_with_others(
    volume: Path, *, direct_io: bool
) -> None:
    store = open_store(f"memory://btrfs-evicted-{direct_io}")
    size, block = 16 * _MIB, 64 << 10
    config = CacheConfig(dir=volume / "cache", block_bytes=block, direct_io=direct_io)
    with Cache(config) as cache:
        source = cache.open(store, store.put("object", os.urandom(size)))
        source.read(0, size)
        wait_until(source.is_complete)
        blocks = entry_of(cache, source).blocks
        before = _taken(volume)
        for number in range(0, size // block, 2):
            assert blocks.try_claim(number)
            assert blocks.evict(number, time.time_ns()) == block
            blocks.release(number)
        freed = before - _taken(volume)
    assert freed > 0.9 * size / 2
