"""Mapped ranges: read in the cache file, under a lease that lasts as long as the use."""

from __future__ import annotations

import fcntl
import functools
import os
import signal
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dataplane import _native
from dataplane.cache import Cache, CacheConfig
from dataplane.cache.fetch import download
from dataplane.cache.maintenance import cleanup
from dataplane.errors import ConfigError, ObjectChanged
from tests.cache import children
from tests.cache.fakes import (
    BLOCK,
    data_files,
    held,
    map_files,
    partly_cached,
    read_all,
    wait_until,
)
from tests.cache.inside import is_idle, jobs_of, session_of
from tests.cache.test_processes import in_child, join_all, start_process

__all__ = ["start_process"]  # a fixture


@pytest.fixture
def warm(cache: Cache, store, content):
    blob = cache.open(store, store.put("a", content))
    assert read_all(blob) == content
    wait_until(blob.is_complete)
    return blob


def is_leased(cache: Cache, blob) -> list[int]:
    """The blocks of an object that somebody leases, as another process sees it."""
    session = session_of(cache)
    looked = session.files.inspect(blob.name, session.verify_tag)
    assert looked is not None
    return [block for block in range(looked.blocks) if looked.is_leased(block)]


def evict_all(cache: Cache) -> int:
    """Empty what may be emptied; returns how many blocks that was."""
    return cleanup.clear(session_of(cache), in_use=True).blocks


class TestUse:
    def test_a_range_shows_the_file_and_counts_as_a_read(self, cache, warm, content):
        before = cache.counters.snapshot()
        spans = [(5, 9), (3 * BLOCK - 10, 7 * BLOCK + 3), (10 * BLOCK, len(content))]
        ranges = warm.mapped(spans)
        assert [bytes(memoryview(one)) for one in ranges] == [content[a:b] for a, b in spans]
        assert memoryview(ranges[0]).readonly
        assert cache.counters["cache_hits"] == before["cache_hits"] + 3
        nbytes = sum(stop - start for start, stop in spans)
        assert cache.counters["cache_hit_bytes"] == before["cache_hit_bytes"] + nbytes
        assert cache.counters["cache_leases_refused"] == 0

    def test_it_is_no_copy(self, warm, content):
        (mapped,) = warm.mapped([(0, len(content))])
        with memoryview(mapped) as one, memoryview(mapped) as other:
            assert np.shares_memory(np.frombuffer(one, "u1"), np.frombuffer(other, "u1"))

    def test_blocks_are_leased_from_the_first_use_to_the_end_of_the_last(self, cache, warm):
        (mapped,) = warm.mapped([(2 * BLOCK + 1, 4 * BLOCK)])
        assert is_leased(cache, warm) == []
        with memoryview(mapped):
            assert is_leased(cache, warm) == [2, 3]
            with memoryview(mapped), memoryview(warm.mapped([(0, 3 * BLOCK)])[0]):
                assert is_leased(cache, warm) == [0, 1, 2, 3]
            assert is_leased(cache, warm) == [2, 3]
        assert is_leased(cache, warm) == []

    def test_nothing_writable_is_given(self, warm):
        (mapped,) = warm.mapped([(0, 10)])
        with pytest.raises(BufferError, match="read-only"):
            _native.copy_ranges(b"", mapped, {}, block_bytes=BLOCK, size_bytes=BLOCK)

    def test_a_range_outside_the_object_is_refused(self, warm, content):
        with pytest.raises(ConfigError, match="outside"):
            warm.mapped([(0, 4), (5, len(content) + 1)])


class TestRefused:
    def test_what_is_not_on_the_disk_is_not_mapped(self, cache, store, content):
        blob = cache.open(store, store.put("a", content))
        blob.read(0, BLOCK)
        wait_until(lambda: blob.is_on_disk(0, BLOCK))
        assert blob.mapped([(0, BLOCK)]) is not None
        assert blob.mapped([(0, BLOCK), (BLOCK, 2 * BLOCK)]) is None
        assert blob.mapped([(BLOCK - 1, BLOCK + 1)]) is None
        assert blob.mapped([(5, 5)]) is None
        assert is_leased(cache, blob) == []

    def test_sealed_blocks_are_not_mapped(self, tmp_path):
        with partly_cached(tmp_path, 3 * BLOCK, [0, 1], seal=True) as (_, blob, content, _):
            wait_until(lambda: blob.is_on_disk(0, BLOCK))
            assert blob.mapped([(0, BLOCK)]) is None
            assert blob.read(0, BLOCK) == content[:BLOCK]

    def test_a_cache_that_cannot_be_used_maps_nothing(self, tmp_path, store, content):
        (tmp_path / "file").write_bytes(b"")
        with Cache(CacheConfig(dir=tmp_path / "file", block_bytes=BLOCK)) as cache:
            assert cache.open(store, store.put("a", content)).mapped([(0, BLOCK)]) is None

    def test_a_damaged_block_is_fetched_again_and_counted_once(self, config, store, content):
        info = store.put("a", content)
        with Cache(config) as cache:
            read_all(cache.open(store, info))
            wait_until(cache.open(store, info).is_complete)
        with data_files(config.dir)[0].open("r+b") as file:
            file.seek(3 * BLOCK + 5)
            file.write(bytes([content[3 * BLOCK + 5] ^ 1]))
        # As after an unclean stop: nothing is believed without its checksum.
        (usage,) = config.dir.glob("usage")
        raw = bytearray(usage.read_bytes())
        raw[24] += 1
        usage.write_bytes(raw)
        with Cache(config) as cache:
            blob = cache.open(store, info)
            assert blob.mapped([(0, len(content))]) is None
            assert blob.mapped([(0, 3 * BLOCK)]) is not None
            assert read_all(blob) == content
            assert cache.counters["cache_blocks_corrupt"] == 1
            wait_until(blob.is_complete)
            (mapped,) = blob.mapped([(0, len(content))])
            assert bytes(memoryview(mapped)) == content


class TestEviction:
    def test_nobody_evicts_what_is_leased_and_all_else_goes(self, cache, warm, content):
        (mapped,) = warm.mapped([(4 * BLOCK, 6 * BLOCK)])
        with memoryview(mapped) as shown:
            assert evict_all(cache) == 9
            assert shown == content[4 * BLOCK : 6 * BLOCK]
            assert evict_all(cache) == 0
        assert evict_all(cache) == 2

    def test_what_was_evicted_before_its_use_is_copied(self, cache, store, warm, content):
        (mapped,) = warm.mapped([(10, 5 * BLOCK)])
        assert evict_all(cache) == 11
        requests = len(store.gets())
        assert memoryview(mapped) == content[10 : 5 * BLOCK]
        assert cache.counters["cache_leases_refused"] == 1
        assert len(store.gets()) == requests + 5
        wait_until(lambda: warm.is_on_disk(0, 5 * BLOCK))
        assert memoryview(mapped) == content[10 : 5 * BLOCK]  # in place again
        assert cache.counters["cache_leases_refused"] == 1

    def test_what_the_copy_raises_its_user_sees(self, cache, store, warm, content):
        (mapped,) = warm.mapped([(0, BLOCK)])
        evict_all(cache)
        store.put("a", content, "v2")
        with pytest.raises(ObjectChanged):
            memoryview(mapped)

    def test_a_full_cache_of_leased_blocks_downloads_past_the_disk(self, tmp_path, store):
        """Nothing waits for a lease: what finds no room goes to its reader without."""
        contents = [os.urandom(8 * BLOCK) for _ in range(2)]
        infos = [store.put(f"k{i}", content) for i, content in enumerate(contents)]
        config = CacheConfig(
            dir=tmp_path / "cache", block_bytes=BLOCK, size_bytes=12 * BLOCK, request_bytes=BLOCK
        )
        with Cache(config) as cache:
            first, second = (cache.open(store, info) for info in infos)
            read_all(first)
            wait_until(first.is_complete)
            (mapped,) = first.mapped([(0, 8 * BLOCK)])
            with memoryview(mapped) as shown:
                assert read_all(second) == contents[1]
                assert read_all(second) == contents[1]
                assert shown == contents[0]
                assert first.is_complete()
            assert cache.counters["cache_uncached_blocks"] > 0

    def test_a_block_found_bad_under_a_lease_is_downloaded_and_not_waited_for(
        self, cache, store, warm, content
    ):
        (mapped,) = warm.mapped([(0, 4 * BLOCK)])
        session = session_of(cache)
        with memoryview(mapped):
            with data_files(session.directory.path)[0].open("r+b") as file:
                file.seek(BLOCK)
                file.write(bytes(10))
            # Another process, which does not believe what this one has seen.
            other = session.files.inspect(warm.name, session.verify_tag + 2)
            assert other.read(BLOCK, 2 * BLOCK, bytearray(BLOCK)).corrupt_blocks == 1
            assert warm.read(0, 4 * BLOCK) == content[: 4 * BLOCK]
            assert cache.counters["cache_uncached_blocks"] == 1
        assert warm.read(0, 4 * BLOCK) == content[: 4 * BLOCK]
        wait_until(warm.is_complete)

    def test_a_block_under_a_fleeting_lease_is_waited_for(self, cache, store, content, monkeypatch):
        """As of one who has found the block gone, and is about to let go of it."""
        monkeypatch.setattr(download, "_LEASED_TRIES", 10_000)
        blob = cache.open(store, store.put("fleeting", content))
        blob.read(0, BLOCK)  # makes the entry
        wait_until(lambda: is_idle(cache))
        path = next(
            path for path in map_files(session_of(cache).directory.path) if path.stem == blob.name
        )
        lease = struct.pack("hhqqi", fcntl.F_RDLCK, os.SEEK_SET, 2, 1, 0)
        with path.open("rb") as lessee, ThreadPoolExecutor(1) as pool:
            fcntl.fcntl(lessee, fcntl.F_OFD_SETLK, lease)
            reading = pool.submit(blob.read, 2 * BLOCK, 3 * BLOCK)
            wait_until(lambda: any(job.tries > 1 for job in jobs_of(cache).values()))
            assert not reading.done()
            lessee.close()
            assert reading.result(30) == content[2 * BLOCK : 3 * BLOCK]
        assert cache.counters["cache_uncached_blocks"] == 0


class TestProcesses:
    def test_a_forked_child_gets_copies_of_its_own(self, warm, content):
        (mapped,) = warm.mapped([(0, len(content))])
        with memoryview(mapped) as shown:

            def child():
                assert memoryview(mapped) == content
                (again,) = warm.mapped([(0, len(content))])
                assert memoryview(again) == content

            in_child(child)
            assert shown == content

    def test_a_killed_process_leaves_no_lease(self, start_process, cache, store, warm, tmp_path):
        ready = tmp_path / "ready"
        process = start_process(
            children.hold_mapped, cache.config, store, warm.info, (0, 3 * BLOCK), ready
        )
        wait_until(ready.exists, 60)
        assert is_leased(cache, warm) == [0, 1, 2]
        assert evict_all(cache) == 8
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert is_leased(cache, warm) == []
        assert evict_all(cache) == 3

    def test_no_byte_is_wrong_while_processes_evict_and_are_killed(
        self, start_process, tmp_path, store
    ):
        """Four processes read in place from a cache that holds a third; one dies at times."""
        infos = [store.put(key, os.urandom(30 * BLOCK + 100)) for key in "abcd"]
        config = CacheConfig(
            dir=tmp_path / "cache", block_bytes=BLOCK, size_bytes=48 * BLOCK, fetch_threads=2
        )
        start = functools.partial(start_process, children.read_mapped_for, config, store, infos)
        started = [start(80, tmp_path / f"report{i}") for i in range(3)]
        victim = start(10**9, tmp_path / "none")
        while any(process.is_alive() for process in started):
            time.sleep(1.0)
            os.kill(victim.pid, signal.SIGKILL)
            victim.join()
            victim = start(10**9, tmp_path / "none")
        join_all(started)
        reports = [(tmp_path / f"report{i}").read_text().split() for i in range(3)]
        # Evicted between the look and the use, and evicted at all: both happened.
        assert sum(int(refused) for _, refused, _ in reports) > 0
        assert sum(int(evicted) for _, _, evicted in reports) > 100
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        with Cache(config) as cache:
            for info in infos:
                blob = cache.open(store, info)
                assert read_all(blob) == store.content_of(info.key)
                assert is_leased(cache, blob) == []


def test_blocks_in_memory_do_not_matter_to_what_is_on_the_disk(cache, warm, content):
    with held(cache, warm, []):
        (mapped,) = warm.mapped([(0, len(content))])
        assert memoryview(mapped) == content


def test_a_range_that_was_not_initialised_has_no_bytes() -> None:
    with pytest.raises(BufferError, match="not initialised"):
        memoryview(_native.MappedRange.__new__(_native.MappedRange))
