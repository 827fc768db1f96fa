"""Views of ranges: the memory of blocks where that is safe and worth it, else copies."""

from __future__ import annotations

import gc
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane import _native
from dataplane.buffers import shared_pool
from dataplane.cache import Cache, CacheConfig, PlannedRead
from dataplane.errors import ConfigError, ObjectChanged
from tests.cache.fakes import BLOCK, held, partly_cached, wait_until

SIZE = 12 * BLOCK + 100


@pytest.fixture
def content() -> bytes:
    return os.urandom(SIZE)


class TestViews:
    def test_a_view_of_a_held_block_is_its_memory(self, cache, store, content):
        blob = cache.open(store, store.put("a", content))
        with held(cache, blob, [2, 12]):
            view = blob.view(2 * BLOCK + 7, 3 * BLOCK)
            assert np.shares_memory(
                np.frombuffer(view, np.uint8), np.frombuffer(cache.held(blob.name)[2], np.uint8)
            )
            assert view.readonly
            assert view == content[2 * BLOCK + 7 : 3 * BLOCK]
            assert blob.view(SIZE - 50, SIZE) == content[SIZE - 50 : SIZE]
            assert cache.counters["cache_hits"] == 2

    def test_a_view_across_blocks_or_of_what_is_not_held_is_a_copy(self, cache, store, content):
        blob = cache.open(store, store.put("a", content))
        with held(cache, blob, [2, 3]):
            view = blob.view(3 * BLOCK - 4, 3 * BLOCK + 4)
            assert view.readonly
            assert view == content[3 * BLOCK - 4 : 3 * BLOCK + 4]
            assert blob.view(5, 9) == content[5:9]
            assert blob.view(2 * BLOCK, 2 * BLOCK) == b""
        with pytest.raises(ConfigError, match="outside"):
            blob.view(0, SIZE + 1)

    def test_memory_returns_to_the_pool_only_when_the_last_view_is_gone(self, tmp_path, store):
        block = 256 << 10  # small blocks are not pooled
        content = os.urandom(2 * block)
        with Cache(CacheConfig(dir=tmp_path / "c", block_bytes=block)) as cache:
            blob = cache.open(store, store.put("a", content))
            with cache.plan([PlannedRead(blob, 0, 2 * block, 0)]) as ahead:
                wait_until(lambda: len(cache.held(blob.name)) == 2)
                wait_until(blob.is_complete)
                view = blob.view(10, block)[5:]
                ahead.advance(1)
            assert not cache.held(blob.name)
            address = np.frombuffer(view, np.uint8).ctypes.data
            pool = shared_pool()
            lent = [pool.array((block,), np.dtype(np.uint8)) for _ in range(8)]
            for array in lent:
                assert not array.ctypes.data <= address < array.ctypes.data + block
                array[:] = 0
            assert view == content[15:block]
            free = pool.free_bytes
            del view
            gc.collect()
            # The thread that downloaded the block may still be on its way out of it.
            wait_until(lambda: pool.free_bytes >= free + block)


class TestManyViews:
    """`views`: each range in one piece, where it lies if it lies in the memory of a block."""

    @settings(
        max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(
        draws=st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, BLOCK)), max_size=30),
        on_disk=st.sets(st.integers(0, 12)),
        in_memory=st.sets(st.integers(0, 12), max_size=6),
        seal=st.booleans(),
    )
    def test_any_mixture_equals_slices(self, tmp_path_factory, draws, on_disk, in_memory, seal):
        root = tmp_path_factory.mktemp("model")
        with partly_cached(root, SIZE, on_disk, seal=seal) as (cache, blob, content, store):
            starts = np.array([start for start, _ in draws], np.uint64)
            stops = np.array([min(SIZE, start + n) for start, n in draws], np.uint64)
            with held(cache, blob, sorted(in_memory - on_disk)):
                views = blob.views(starts, stops)
            assert_views(views, content, starts, stops)
            assert len(store.gets()) == len(set(store.gets()))

    def test_chunks_of_held_blocks_are_not_copied_but_those_that_cross_are(self, tmp_path, store):
        block, size = 16 * BLOCK, 4 * 16 * BLOCK
        content = os.urandom(size)
        starts = np.arange(0, size - 10_000, 10_100, dtype=np.uint64)
        stops = starts + np.uint64(10_000)
        with Cache(CacheConfig(dir=tmp_path / "c", block_bytes=block)) as cache:
            blob = cache.open(store, store.put("a", content))
            with cache.plan([PlannedRead(blob, 0, size, 0)]):
                wait_until(lambda: len(cache.held(blob.name)) == 4)
                memory = cache.held(blob.name)
                views = blob.views(starts, stops)
        assert_views(views, content, starts, stops)
        crossing = int((starts // block != (stops - 1) // block).sum())
        assert (views.source == 0).sum() == crossing == 3
        assert memoryview(views.sources[0]).nbytes == 10_000 * crossing
        for number, source in enumerate(views.sources[1:]):
            assert np.shares_memory(
                np.frombuffer(source, "u1"), np.frombuffer(memory[number], "u1")
            )

    def test_what_is_downloaded_for_views_is_shown_too(self, any_cache, store, content):
        blob = any_cache.open(store, store.put("a", content))
        starts = np.arange(0, SIZE - 512, 512, dtype=np.uint64)
        views = blob.views(starts, starts + np.uint64(512))
        assert_views(views, content, starts, starts + np.uint64(512))
        assert not (views.source == 0).any()
        assert any_cache.counters["cache_misses"] == 12
        assert any_cache.counters["cache_miss_bytes"] == 12 * BLOCK
        assert len(store.gets()) == 12
        assert not blob.is_on_disk(0, SIZE)
        wait_until(lambda: blob.is_on_disk(0, 12 * BLOCK))

    def test_few_bytes_do_not_keep_a_block_from_its_pool(self, cache, store, content):
        blob = cache.open(store, store.put("a", content))
        starts = np.array([10, BLOCK + 10, 2 * BLOCK, SIZE - 50], np.uint64)
        lengths = np.array([10, BLOCK // 2, BLOCK // 2 - 1, 50], np.uint64)
        with held(cache, blob, [0, 1, 2, 12]):
            views = blob.views(starts, starts + lengths)
        assert_views(views, content, starts, starts + lengths)
        assert views.source.tolist() == [0, 1, 0, 2]  # the last block has 100 bytes
        assert len(views.sources) == 3

    @pytest.mark.parametrize("size", [0, BLOCK, 2 * BLOCK])
    def test_empty_views_at_the_end_of_an_object_ask_for_nothing(self, cache, store, size):
        blob = cache.open(store, store.put("a", bytes(size)))
        ends = np.array([size, size], np.uint64)
        views = blob.views(ends, ends)
        assert_views(views, bytes(size), ends, ends)
        assert store.gets() == []

    def test_an_unusable_cache_gives_copies(self, tmp_path, store, content):
        (tmp_path / "file").write_bytes(b"")
        with Cache(CacheConfig(dir=tmp_path / "file", block_bytes=BLOCK)) as cache:
            blob = cache.open(store, store.put("a", content))
            starts = np.arange(0, 3 * BLOCK, 512, dtype=np.uint64)
            views = blob.views(starts, starts + np.uint64(512))
            assert_views(views, content, starts, starts + np.uint64(512))
            assert store.requests() == [(0, 3 * BLOCK)]
            assert blob.is_on_disk(0, SIZE)  # nothing to show

    def test_ranges_outside_the_object_and_lost_objects_are_errors(self, cache, store, content):
        info = store.put("a", content)
        blob = cache.open(store, info)
        with pytest.raises(ConfigError, match="outside"):
            blob.views(np.array([0], np.uint64), np.array([SIZE + 1], np.uint64))
        store.put("a", content, "v2")
        with pytest.raises(ObjectChanged):
            blob.views(np.array([0], np.uint64), np.array([BLOCK], np.uint64))


def assert_views(views, content: bytes, starts, stops) -> None:
    for start, stop, source, offset in zip(
        starts.tolist(), stops.tolist(), views.source.tolist(), views.offset.tolist(), strict=True
    ):
        memory = memoryview(views.sources[source])
        assert memory[offset : offset + stop - start] == content[start:stop]


class TestPagedIn:
    """Long ranges on the disk are read in huge pages before they are copied, and only those."""

    BLOCK = 256 << 10
    STARTS = np.array([100], np.uint64)
    STOPS = np.array([(1 << 20) - 100], np.uint64)  # across blocks, so copied

    @pytest.fixture
    def expected(self, monkeypatch) -> list[tuple[int, int]]:
        """The ranges that were asked for to be paged in."""
        asked: list[tuple[int, int]] = []
        real = _native.BlockMap.expect

        def expect(blocks, start, stop):
            asked.append((start, stop))
            return real(blocks, start, stop)

        monkeypatch.setattr(_native.BlockMap, "expect", expect)
        return asked

    def test_a_range_that_is_on_the_disk_alone(self, tmp_path, store, expected):
        content = os.urandom(1 << 20)
        with Cache(CacheConfig(dir=tmp_path / "c", block_bytes=self.BLOCK)) as cache:
            blob = cache.open(store, store.put("a", content))
            blob.read(0, 1 << 20)
            wait_until(blob.is_complete)
            assert_views(blob.views(self.STARTS, self.STOPS), content, self.STARTS, self.STOPS)
            assert expected == [(100, (1 << 20) - 100)]
            short = self.STARTS + np.uint64((512 << 10) - 1)
            assert_views(blob.views(self.STARTS, short), content, self.STARTS, short)
            assert len(expected) == 1

    def test_not_one_whose_blocks_are_in_memory_as_well(self, tmp_path, store, expected):
        """The page cache would read, or clear, megabytes for bytes that are there."""
        content = os.urandom(1 << 20)
        with Cache(CacheConfig(dir=tmp_path / "c", block_bytes=self.BLOCK)) as cache:
            blob = cache.open(store, store.put("a", content))
            with cache.plan([PlannedRead(blob, 0, 1 << 20, 0)]):
                wait_until(lambda: len(cache.held(blob.name)) == 4)
                wait_until(blob.is_complete)
                assert_views(blob.views(self.STARTS, self.STOPS), content, self.STARTS, self.STOPS)
        assert expected == []
