"""Reading through the cache gives the object's bytes, whatever is on the disk."""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.cache import CACHE_COUNTERS, Cache, CacheConfig, CachedObject
from dataplane.config import assemble
from dataplane.errors import CacheError, ConfigError, NotFound, ObjectChanged, StoreError
from dataplane.stores.base import ObjectInfo
from tests.cache.fakes import BLOCK, FolderStore, data_files, read_all


def test_a_read_returns_the_objects_bytes_and_the_second_makes_no_request(cache, store, content):
    blob = cache.open(store, store.put("a", content))

    assert read_all(blob) == content
    first = len(store.gets())
    assert read_all(blob) == content

    assert first == 11
    assert len(store.gets()) == first
    assert cache.counters["cache_hits"] == 1
    assert cache.counters["cache_hit_bytes"] == len(content)
    assert cache.counters["cache_fetch_bytes"] == len(content)


def test_another_cache_object_finds_the_blocks_of_the_first(config, store, content):
    info = store.put("a", content)
    with Cache(config) as first:
        read_all(first.open(store, info))
    with Cache(config) as second:
        assert read_all(second.open(store, info)) == content
        assert second.counters["cache_fetches"] == 0
        assert second.counters["cache_blocks_corrupt"] == 0


def test_a_small_read_fetches_only_the_block_it_touches(cache, store, content):
    blob = cache.open(store, store.put("a", content))

    assert bytes(blob.read(BLOCK * 3 + 5, BLOCK * 3 + 9)) == content[BLOCK * 3 + 5 : BLOCK * 3 + 9]

    assert store.gets() == [(BLOCK * 3, BLOCK * 4)]
    assert blob.resident_bytes() == BLOCK
    assert not blob.is_complete()


def test_an_object_is_complete_once_every_block_is_there(cache, store, content):
    blob = cache.open(store, store.put("a", content))
    read_all(blob)
    assert blob.is_complete()
    assert blob.resident_bytes() == len(content)


def test_opening_makes_no_request_and_no_file(cache, config, store, content):
    cache.open(store, store.put("a", content))
    assert store.gets() == []
    assert not config.dir.exists()


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1])
def test_objects_of_edge_sizes_read_whole(cache, store, size):
    content = os.urandom(size)
    blob = cache.open(store, store.put("a", content))
    assert read_all(blob) == content
    assert read_all(blob) == content
    assert blob.is_complete()


@pytest.mark.parametrize(("start", "stop"), [(-1, 4), (5, 4), (0, 10**6), (10**6, 10**6)])
def test_a_range_outside_the_object_is_refused(cache, store, content, start, stop):
    blob = cache.open(store, store.put("a", content))
    with pytest.raises(ConfigError, match="outside"):
        blob.read(start, stop)


def test_read_into_fills_any_contiguous_buffer(cache, store, content):
    blob = cache.open(store, store.put("a", content))
    floats = np.zeros((4, 256), np.float32)
    blob.read_into(100, 100 + floats.nbytes, floats)
    assert floats.tobytes() == content[100 : 100 + floats.nbytes]


@pytest.mark.parametrize(
    "buffer",
    [bytes(8), bytearray(7), bytearray(9), np.zeros((8, 2), np.uint8)[:, 0]],
    ids=["read-only", "short", "long", "strided"],
)
def test_a_buffer_that_does_not_fit_is_refused_before_any_request(cache, store, content, buffer):
    blob = cache.open(store, store.put("a", content))
    with pytest.raises(ConfigError, match="writable contiguous"):
        blob.read_into(0, 8, buffer)
    assert store.gets() == []


def test_a_replaced_object_raises_and_its_new_version_is_another_entry(cache, store, content):
    old = cache.open(store, store.put("a", content, "v1"))
    assert bytes(old.read(0, 10)) == content[:10]
    new = cache.open(store, store.put("a", content[::-1], "v2"))

    with pytest.raises(ObjectChanged):
        old.read(BLOCK, BLOCK + 10)
    assert bytes(old.read(0, 10)) == content[:10]
    assert read_all(new) == content[::-1]


def test_a_failed_download_raises_the_stores_error_and_the_next_read_tries_again(cache, store):
    blob = cache.open(store, ObjectInfo("late", 5, "v1"))
    with pytest.raises(NotFound):
        blob.read(0, 5)
    store.put("late", b"hello")
    assert read_all(blob) == b"hello"
    assert cache.counters["cache_fetch_errors"] == 1


def test_a_store_that_answers_short_is_an_error_not_a_block(cache, store):
    store.put("a", b"123")
    blob = cache.open(store, ObjectInfo("a", 5, "v1"))
    with pytest.raises(StoreError, match="expected 5 bytes, got 3"):
        blob.read(0, 5)
    assert blob.resident_bytes() == 0


@pytest.mark.parametrize(
    "key",
    [
        "../../etc/passwd",
        "a/../b",
        "/abs",
        "nul\0byte",
        "new\nline",
        "k" * 4096,
        "ü" * 2000,
        "\U0001f4a9" * 2000,
        "\ud800",
        ".",
        "..",
        "a.map",
    ],
    ids=range(12),
)
def test_hostile_keys_never_become_paths(config, store, key):
    info = store.put(key, b"content")
    with Cache(config) as cache:
        assert read_all(cache.open(store, info)) == b"content"
        assert cache.counters["cache_passthrough_reads"] == 0
    [file] = data_files(config.dir)
    assert len(file.stem) == 40
    assert set(file.stem) <= set("0123456789abcdef")


def test_entries_differ_by_store_key_etag_size_and_block_size(cache, config, store):
    def name(store=store, key="k", etag="e", size=3, cache=cache):
        return cache.open(store, ObjectInfo(key, size, etag)).name

    class Elsewhere(FolderStore):
        identity = "test://elsewhere"

    other_config = CacheConfig(dir=config.dir, block_bytes=2 * BLOCK)
    with Cache(other_config) as other:
        names = {
            name(),
            name(key="k2"),
            name(etag="e2"),
            name(size=4),
            name(cache=other),
            name(store=Elsewhere(store.folder)),
            name(key="ke", etag=""),
        }
    assert len(names) == 7


def test_threads_share_one_download_per_block(cache, store, content):
    slow = FolderStore(store.folder, delay_s=0.02)
    blob = cache.open(slow, slow.put("a", content))
    results: list[bytes] = []
    barrier = threading.Barrier(8)

    def read() -> None:
        barrier.wait()
        results.append(read_all(blob))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [content] * 8
    assert len(store.gets()) == 11


def test_counters_that_are_kept_are_documented(cache, store, content):
    read_all(cache.open(store, store.put("a", content)))
    assert set(cache.counters.snapshot()) <= set(CACHE_COUNTERS)


def test_the_directory_comes_from_the_environment(tmp_path: Path):
    resolved = assemble(CacheConfig, "cache", environ={"DATAPLANE_CACHE_DIR": str(tmp_path / "d")})
    assert resolved.value.dir == tmp_path / "d"
    assert resolved.origins["dir"] == "DATAPLANE_CACHE_DIR"


def test_caches_and_objects_pickle_by_their_configuration(config, store, content):
    cache = Cache.shared(config)
    try:
        blob = cache.open(store, store.put("a", content))
        copy: CachedObject = pickle.loads(pickle.dumps(blob))
        assert pickle.loads(pickle.dumps(cache)) is cache
        assert read_all(copy) == content
        assert copy.info == blob.info
    finally:
        cache.close()


def test_a_shared_cache_is_made_again_after_close(config):
    first = Cache.shared(config)
    assert Cache.shared(config) is first
    first.close()
    second = Cache.shared(config)
    assert second is not first
    second.close()


def test_a_closed_cache_says_so(config, store, content):
    cache = Cache(config)
    blob = cache.open(store, store.put("a", content))
    blob.read(0, 1)
    cache.close()
    cache.close()
    with pytest.raises(CacheError, match="closed"):
        blob.read(BLOCK, BLOCK + 1)


def test_close_leaves_no_thread(config, store, content):
    before = set(threading.enumerate())
    cache = Cache(config)
    read_all(cache.open(store, store.put("a", content)))
    cache.close()
    assert set(threading.enumerate()) == before


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_random_reads_replacements_and_reopenings_match_a_dict(tmp_path_factory, data):
    """A tiny budget evicts all the time; etags change; the cache is closed and opened again."""
    root = tmp_path_factory.mktemp("model")
    store = FolderStore(root)
    config = CacheConfig(
        dir=root / "cache", block_bytes=BLOCK, size_bytes=12 * BLOCK, fetch_threads=2
    )
    model: dict[str, bytes] = {}
    infos: dict[str, ObjectInfo] = {}
    cache = Cache(config)
    try:
        for step in range(data.draw(st.integers(1, 12))):
            key = data.draw(st.sampled_from("abc"))
            if key not in model or data.draw(st.integers(0, 3)) == 0:
                model[key] = os.urandom(data.draw(st.integers(0, 6 * BLOCK)))
                infos[key] = store.put(key, model[key], f"v{step}")
            if data.draw(st.integers(0, 4)) == 0:
                cache.close()
                cache = Cache(config)
            size = len(model[key])
            start = data.draw(st.integers(0, size))
            stop = data.draw(st.integers(start, size))
            assert bytes(cache.open(store, infos[key]).read(start, stop)) == model[key][start:stop]
            assert cache.usage_bytes() <= config.size_bytes
    finally:
        cache.close()
