"""A directory that fails is left alone for a while, for longer if it fails again, and returns."""

from __future__ import annotations

import logging
import os
import subprocess

import pytest

from dataplane.cache import Cache, CacheConfig
from dataplane.cache.disk.circuit_breaker import CircuitBreaker
from tests.cache.fakes import BLOCK, read_all


@pytest.fixture
def clock(monkeypatch):
    """Seconds of a clock that moves when it is told to."""
    now = [1000.0]
    monkeypatch.setattr("dataplane.cache.disk.circuit_breaker.time.monotonic", lambda: now[0])
    return now


def fail_and_wait(breaker, clock):
    """Fail, wait until the directory may be tried again, let it return; how long that took."""
    began = clock[0]
    breaker.begin()
    while not breaker.is_due():
        clock[0] += 1
    breaker.end()
    return clock[0] - began


def test_a_disk_that_fails_again_soon_is_left_alone_for_longer_each_time(clock):
    breaker = CircuitBreaker()
    pauses = []
    for _ in range(6):
        pauses.append(fail_and_wait(breaker, clock))
        clock[0] += 2
    assert pauses == [5, 10, 20, 40, 60, 60]


def test_a_disk_that_has_held_for_a_minute_fails_for_the_first_time_again(clock):
    breaker = CircuitBreaker()
    assert [fail_and_wait(breaker, clock) for _ in range(3)] == [5, 10, 20]
    clock[0] += 60
    assert fail_and_wait(breaker, clock) == 5


def test_many_failures_at_once_are_one(clock):
    breaker = CircuitBreaker()
    for _ in range(10):
        breaker.begin()
    assert breaker.is_on()
    assert not breaker.is_due()
    clock[0] += 5
    assert breaker.is_due()
    assert breaker.is_on()
    breaker.end()
    breaker.end()
    assert not breaker.is_on()


def mounted_tmpfs(folder):
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.decode().strip()}")


def test_a_read_only_disk_is_passed_by_and_used_as_soon_as_it_is_well(
    tmp_path, store, monkeypatch, caplog
):
    monkeypatch.setattr("dataplane.cache.disk.circuit_breaker._FIRST_S", 0.0)
    folder = tmp_path / "disk"
    mounted_tmpfs(folder)
    config = CacheConfig(dir=folder / "cache", block_bytes=BLOCK, fetch_threads=2)
    contents = [os.urandom(5 * BLOCK) for _ in range(2)]
    infos = [store.put(f"o{number}", content) for number, content in enumerate(contents)]
    try:
        with Cache(config) as cache:
            assert read_all(cache.open(store, infos[0])) == contents[0]
        remount(folder, "ro")
        with caplog.at_level(logging.WARNING, "dataplane"), Cache(config) as cache:
            blobs = [cache.open(store, info) for info in infos]
            for _ in range(2):
                for blob, content in zip(blobs, contents, strict=True):
                    assert read_all(blob) == content
            assert cache.counters["cache_passthrough_reads"] == 4
            remount(folder, "rw")
            for blob, content in zip(blobs, contents, strict=True):
                assert read_all(blob) == content
            assert all(blob.is_complete() for blob in blobs)
            assert cache.counters["cache_fetches"] == 5  # the first object was there
        [record] = caplog.records
        assert "Read-only file system" in record.getMessage()
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder, mode):
    subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], check=True)
