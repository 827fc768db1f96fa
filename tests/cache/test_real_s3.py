"""The cache before a real S3 server: what it answers cold, warm, and when an object is replaced."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

import pytest

from dataplane.cache import Cache, CacheConfig
from dataplane.errors import ObjectChanged
from dataplane.stores import open_store
from dataplane.stores.base import Store
from dataplane.telemetry import Counters
from tests.cache.fakes import BLOCK, read_all, wait_until

pytestmark = pytest.mark.ceph
BLOCKS = 40
CONTENT = os.urandom(BLOCK * BLOCKS + 123)


@pytest.fixture
def counters() -> Counters:
    """What the store was asked for."""
    return Counters()


@pytest.fixture
def real_store(s3_url: str, counters: Counters) -> Iterator[Store]:
    with closing(open_store(s3_url, counters=counters)) as store:
        yield store


def test_a_cold_read_fetches_each_byte_once_and_a_warm_one_none(
    real_store: Store, counters: Counters, config: CacheConfig
) -> None:
    info = real_store.put("runs/a b,ü+%.bin", CONTENT)
    with Cache(config) as cache:
        source = cache.open(real_store, info)
        assert read_all(source) == CONTENT
        assert source.is_complete()
        # A stream is counted when it ends, just after its last block was handed over.
        wait_until(lambda: counters["store_get_bytes"] == len(CONTENT))
        assert read_all(source) == CONTENT
    with Cache(config) as cache:  # as the next process would
        found = cache.open(real_store, real_store.head(info.key))
        assert bytes(found.read(BLOCK - 7, 3 * BLOCK + 1)) == CONTENT[BLOCK - 7 : 3 * BLOCK + 1]
        assert cache.counters["cache_miss_bytes"] == 0
    assert counters["store_get_bytes"] == len(CONTENT)


def test_a_replaced_object_is_an_error_and_never_a_mixture(
    real_store: Store, config: CacheConfig
) -> None:
    before = real_store.put("k", CONTENT)
    with Cache(config) as cache:
        source = cache.open(real_store, before)
        assert bytes(source.read(0, BLOCK)) == CONTENT[:BLOCK]
        after = real_store.put("k", CONTENT[::-1])
        assert after.etag != before.etag
        with pytest.raises(ObjectChanged, match="k"):
            source.read(20 * BLOCK, 21 * BLOCK)
        assert bytes(source.read(0, BLOCK)) == CONTENT[:BLOCK]
        assert read_all(cache.open(real_store, after)) == CONTENT[::-1]
