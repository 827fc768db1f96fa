"""What is needed is fetched once, in order, and what is missing is told to the block."""

from __future__ import annotations

import os

import pytest

from dataplane.cache import Cache, CacheConfig
from dataplane.cache.warm import Need, look, warm
from dataplane.errors import NoSpace, ObjectChanged
from tests.cache.fakes import BLOCK, map_files, read_all, wait_until


@pytest.fixture
def blob(cache, store):
    return cache.open(store, store.put("a", os.urandom(10 * BLOCK + 5)))


def test_looking_tells_what_is_missing_and_makes_nothing(cache, config, store, blob):
    state = look(cache, [Need(blob, 0, blob.info.size_bytes)])
    assert (state.objects, state.needed_bytes) == (1, 10 * BLOCK + 5)
    assert state.missing_bytes == 10 * BLOCK + 5
    assert store.gets() == []
    assert map_files(config.dir) == []


def test_all_of_it_is_fetched_once(cache, store, blob):
    seen = []
    blob.read(3 * BLOCK, 4 * BLOCK)
    need = [Need(blob, 0, blob.info.size_bytes)]
    state = warm(cache, need, lambda state: seen.append(state.fetched_bytes))
    assert (state.fetched_bytes, state.missing_bytes) == (9 * BLOCK + 5, 0)
    assert blob.is_complete()
    assert sorted(store.gets())[0][0] == 0
    assert sum(stop - start for start, stop in store.gets()) == 10 * BLOCK + 5
    assert seen == sorted(seen)
    assert seen[-1] == state.fetched_bytes
    assert warm(cache, need).fetched_bytes == 0


def test_ranges_become_blocks_each_once_in_the_order_of_need(cache, blob):
    needs = [
        Need(blob, 5 * BLOCK + 1, 5 * BLOCK + 2),
        Need(blob, 2 * BLOCK - 1, 2 * BLOCK + 1),
        Need(blob, 5 * BLOCK, 6 * BLOCK),
        Need(blob, 10 * BLOCK, 10 * BLOCK + 5),
        Need(blob, 7, 7),
    ]
    state = look(cache, needs)
    assert [missing.block for missing in state.missing] == [5, 1, 2, 10]
    assert state.needed_bytes == 3 * BLOCK + 5
    assert warm(cache, needs).missing_bytes == 0
    assert blob.resident_bytes() == 3 * BLOCK + 5


def test_more_than_the_budget_is_refused_before_a_byte_is_fetched(tmp_path, store):
    config = CacheConfig(dir=tmp_path / "c", block_bytes=BLOCK, size_bytes=8 * BLOCK)
    with Cache(config) as cache:
        blob = cache.open(store, store.put("a", os.urandom(9 * BLOCK)))
        with pytest.raises(NoSpace, match="do not fit the cache's budget"):
            warm(cache, [Need(blob, 0, 9 * BLOCK)])
    assert store.gets() == []


def test_what_the_cache_could_not_keep_is_still_missing(tmp_path, store):
    config = CacheConfig(dir=tmp_path / "c", block_bytes=BLOCK, size_bytes=8 * BLOCK)
    with Cache(config) as cache:
        # Eight blocks fit the budget by themselves, but not beside their map.
        blob = cache.open(store, store.put("a", os.urandom(8 * BLOCK)))
        state = warm(cache, [Need(blob, 0, 8 * BLOCK)])
        assert state.fetched_bytes == 8 * BLOCK
        assert 0 < state.missing_bytes == 8 * BLOCK - blob.resident_bytes()


def test_an_object_that_changes_is_an_error_and_what_came_stays(cache, store, blob):
    read_all(blob)
    other = cache.open(store, store.put("b", os.urandom(3 * BLOCK)))
    store.put("b", os.urandom(3 * BLOCK), "v2")
    with pytest.raises(ObjectChanged):
        warm(cache, [Need(blob, 0, 1), Need(other, 0, 3 * BLOCK)])
    assert blob.is_complete()


def test_a_block_that_is_written_while_it_is_asked_about_is_not_missing(cache, blob, monkeypatch):
    """Its reader had the bytes before the disk; the last block is written between two looks."""
    written = []

    def finish_meanwhile(self, key):
        if not written:
            written.append(key)
            read_all(blob)
            wait_until(blob.is_complete)
        return False

    real = Cache.existing
    looks = []

    def behind(self, source):
        looks.append(1)
        return None if len(looks) < 3 else real(self, source)

    monkeypatch.setattr(Cache, "is_under_way", finish_meanwhile)
    monkeypatch.setattr(Cache, "existing", behind)
    assert warm(cache, [Need(blob, 0, blob.info.size_bytes)]).missing_bytes == 0
    assert written
