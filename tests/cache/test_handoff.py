"""A block that a plan awaits is handed to its reader from memory; the disk gets it beside that."""

from __future__ import annotations

import gc
import os
import threading
from dataclasses import dataclass, replace

import pytest

from dataplane.cache import Cache, CacheConfig, PlannedRead
from dataplane.cache.disk.entry_identity import map_disk_bytes
from dataplane.cache.entries.open_entries import EntryTable
from dataplane.cache.fetch.scheduler import Job
from tests.cache.fakes import BLOCK, FolderStore, read_all, wait_until
from tests.cache.inside import entry_of, pins_of


@dataclass(eq=False)
class _Held:
    """A block map whose writes wait until they are let go."""

    blocks: object
    gate: threading.Event

    def __getattr__(self, name: str) -> object:
        return getattr(self.blocks, name)

    def commit(self, *args: object, **options: object) -> None:
        assert self.gate.wait(30)
        self.blocks.commit(*args, **options)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch):
    """While it is closed, no block reaches the disk."""
    gate = threading.Event()
    real = EntryTable.get

    def get(self, name, spec):
        entry = real(self, name, spec)
        return replace(entry, blocks=_Held(entry.blocks, gate))

    monkeypatch.setattr(EntryTable, "get", get)
    yield gate
    gate.set()


@pytest.fixture
def content():
    return os.urandom(20 * BLOCK + 77)


def _plan(blob, blocks):
    return [PlannedRead(blob, n * BLOCK, (n + 1) * BLOCK, i) for i, n in enumerate(blocks)]


def test_a_planned_block_is_read_before_the_disk_has_it(tmp_path, store, gate, content):
    with Cache(CacheConfig(dir=tmp_path / "c", block_bytes=BLOCK)) as cache:
        blob = cache.open(store, store.put("a", content))
        with cache.plan(_plan(blob, [3, 4])):
            wait_until(lambda: cache.buffer.held_bytes == 2 * BLOCK)
            start, stop = 3 * BLOCK + 5, 5 * BLOCK - 9
            assert blob.read(start, stop) == content[start:stop]
            assert blob.resident_bytes() == 0
            assert len(store.gets()) == 2
            gate.set()
            wait_until(lambda: blob.resident_bytes() == 2 * BLOCK)


def test_memory_disk_and_store_make_up_one_read(cache, store, content):
    blob = cache.open(store, store.put("a", content))
    blob.read(2 * BLOCK, 3 * BLOCK)  # on the disk
    with cache.plan(_plan(blob, [5, 6, 9])):  # in memory
        wait_until(lambda: cache.buffer.held_bytes == 3 * BLOCK)
        wait_until(lambda: blob.resident_bytes() == 4 * BLOCK)
        assert read_all(blob) == content
        for start, stop in [(0, 1), (5 * BLOCK, 5 * BLOCK), (5 * BLOCK + 1, 7 * BLOCK + 3)]:
            assert blob.read(start, stop) == content[start:stop]
    assert len(store.gets()) == 21


def test_memory_is_given_back_when_the_reader_is_past_it(cache, store, content):
    blob = cache.open(store, store.put("a", content))
    with cache.plan(_plan(blob, range(6))) as ahead:
        wait_until(lambda: cache.buffer.held_bytes == 6 * BLOCK)
        ahead.advance(4)
        assert cache.buffer.held_bytes == 2 * BLOCK
    assert cache.buffer.held_bytes == 0
    assert read_all(blob) == content


def test_two_plans_share_the_memory_of_a_block(cache, store, content):
    blob = cache.open(store, store.put("a", content))
    with cache.plan(_plan(blob, [1])):
        with cache.plan(_plan(blob, [1])):
            wait_until(lambda: pins_of(cache).get((blob.name, 1)) == 2)
            wait_until(lambda: cache.buffer.held_bytes == BLOCK)
        assert cache.buffer.held_bytes == BLOCK
    assert cache.buffer.held_bytes == 0


@pytest.mark.parametrize("limit", [0, 3 * BLOCK])
def test_what_does_not_fit_into_memory_is_left_to_the_disk(tmp_path, store, content, limit):
    config = CacheConfig(dir=tmp_path / "c", block_bytes=BLOCK, prefetch_memory_bytes=limit)
    with Cache(config) as cache:
        blob = cache.open(store, store.put("a", content))
        with cache.plan(_plan(blob, range(10))):
            wait_until(lambda: blob.resident_bytes() == 10 * BLOCK)
            assert cache.buffer.held_bytes == limit
            assert read_all(blob) == content


def test_unplanned_reads_hold_nothing_and_find_their_blocks_on_the_disk(cache, store, content):
    blob = cache.open(store, store.put("a", content))
    assert read_all(blob) == content
    assert cache.buffer.held_bytes == 0
    assert blob.is_complete()


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("size", [1, BLOCK, 3 * BLOCK + 1, 7 * BLOCK - 1])
def test_blocks_are_written_whole_with_and_without_direct_io(
    tmp_path, store: FolderStore, direct, size
):
    content = os.urandom(size)
    info = store.put("a", content)
    config = CacheConfig(dir=tmp_path / "c", block_bytes=2 * BLOCK, direct_io=direct)
    with Cache(config) as cache:
        assert read_all(cache.open(store, info)) == content
    gets = len(store.gets())
    with Cache(config) as cache:  # checks every block against its checksum
        assert read_all(cache.open(store, info)) == content
        assert cache.counters["cache_blocks_corrupt"] == 0
    assert len(store.gets()) == gets


def test_nothing_of_a_finished_plan_lives_on_without_the_garbage_collector(
    tmp_path, store, content
):
    gc.collect()
    gc.disable()
    try:
        config = CacheConfig(dir=tmp_path / "c", block_bytes=BLOCK, prefetch_memory_bytes=0)
        with Cache(config) as cache:
            blob = cache.open(store, store.put("a", content))
            with cache.plan(_plan(blob, range(20))):
                wait_until(lambda: blob.resident_bytes() == 20 * BLOCK)
            # The last job's thread may still be on its way out of it.
            wait_until(lambda: not [one for one in gc.get_objects() if type(one) is Job])
        files = {str(path) for path in (tmp_path / "c").rglob("*")}
        assert not files & {os.path.realpath(f"/proc/self/fd/{fd}") for fd in _descriptors()}
    finally:
        gc.enable()


def _descriptors() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/fd")]


def test_a_reader_that_looked_just_before_does_not_download_again(tmp_path, store, content):
    config = CacheConfig(dir=tmp_path / "c", block_bytes=BLOCK, size_bytes=map_disk_bytes(21))
    with Cache(config) as cache:  # no room for a block: memory is the only place
        blob = cache.open(store, store.put("a", content))
        with cache.plan(_plan(blob, [3])):
            wait_until(lambda: cache.counters["cache_uncached_blocks"] == 1)
            wait_until(lambda: not cache.is_under_way((blob.name, 3)))
            (job,) = cache.submit(entry_of(cache, blob), blob.store, blob.info, [3])
            assert bytes(job.future.result()) == content[3 * BLOCK : 4 * BLOCK]
    assert len(store.gets()) == 1
