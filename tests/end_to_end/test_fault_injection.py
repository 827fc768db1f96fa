"""A store that throttles, breaks off, cuts short and stalls costs time, and never a byte."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import dataplane as dp
from dataplane.cache import Cache, CacheConfig
from dataplane.errors import StoreError
from dataplane.shards import DatasetWriter, SourceSample, WriteOptions
from dataplane.stores import open_store
from dataplane.stores.base import StoreConfig
from dataplane_testing.generate import generate_samples
from dataplane_testing.s3 import Faults, S3Endpoint

URL = "s3://data/ds"
STALL_S = 6.0
WEATHER = {
    "slow_down_rate": 0.10,
    "reset_body_rate": 0.05,
    "truncate_rate": 0.05,
    "retry_after_s": 0,
}


@pytest.fixture(scope="module")
def samples() -> list[SourceSample]:
    return list(generate_samples(20 << 20, seed=5, kinds=("volume",), sample_bytes=1 << 20))


@pytest.fixture
def endpoint(
    samples: list[SourceSample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[S3Endpoint]:
    with S3Endpoint(root=tmp_path / "s3", buckets=("data",)) as endpoint:
        for name, value in endpoint.environment().items():
            monkeypatch.setenv(name, value)
        with DatasetWriter(open_store(URL), WriteOptions()) as writer:
            for sample in samples:
                writer.add(sample)
            writer.finish()
        yield endpoint
        endpoint.set_faults(Faults())


def _epoch(
    samples: list[SourceSample], folder: Path, store: StoreConfig
) -> tuple[float, dp.Dataset]:
    """Read a cold epoch, check every value, and return how long it took."""
    expected = {sample.key: sample for sample in samples}
    # A block a request: there must be enough of them to learn what is late, and to meet stalls.
    cache = CacheConfig(dir=folder, block_bytes=64 << 10, request_bytes=64 << 10)
    dataset = dp.Dataset(URL, cache=cache, store=store)
    loader = dp.DataLoader(dataset, batch_size=2, shuffle=True, num_workers=2, seed=1)
    begun_s = time.monotonic()
    seen = []
    for batch in loader:
        for place, key in enumerate(batch["__key__"]):
            seen.append(key)
            for name, array in expected[key].arrays.items():
                assert np.array_equal(batch[name][place].numpy(), array.values), (key, name)
    elapsed_s = time.monotonic() - begun_s
    assert sorted(seen) == sorted(expected)
    assert Cache.shared(cache).counters["cache_blocks_corrupt"] == 0
    return elapsed_s, dataset


def test_throttling_resets_and_cut_bodies_do_not_change_a_byte(
    endpoint: S3Endpoint, samples: list[SourceSample], tmp_path: Path
) -> None:
    endpoint.set_faults(Faults(seed=3, **WEATHER))
    _, dataset = _epoch(samples, tmp_path / "c", StoreConfig(max_attempts=20))
    hit = endpoint.fault_counts()
    assert sum(hit.values()) > 10, hit
    assert dataset.counters["store_retries"] > 10


def test_stalled_reads_are_overtaken(
    endpoint: S3Endpoint, samples: list[SourceSample], tmp_path: Path
) -> None:
    # Before 64 reads are known nothing is late, and a stall would be sat out.
    script = ("",) * 90 + ("stall", *("",) * 9) * 3
    endpoint.set_faults(Faults(seed=3, script=script, stall_s=STALL_S, **WEATHER))
    store = StoreConfig(max_attempts=20, hedge_floor_s=0.1)
    elapsed_s, dataset = _epoch(samples, tmp_path / "c", store)
    assert endpoint.fault_counts()["stall"] == 3
    assert dataset.counters["store_hedges_won"] >= 1
    assert elapsed_s < 2 * STALL_S


def test_a_slow_stream_is_not_cut_while_bytes_are_coming(endpoint: S3Endpoint) -> None:
    content = bytes(range(256)) * (12 << 10)
    store = open_store("s3://data", StoreConfig(timeout_s=1.0, max_attempts=1))
    info = store.put("slow", content)
    endpoint.set_faults(Faults(bandwidth_bytes_per_s=1.2e6))
    begun_s = time.monotonic()
    pieces = store.stream_range("slow", 0, len(content), piece_bytes=1 << 20, if_match=info.etag)
    assert b"".join(map(bytes, pieces)) == content
    assert time.monotonic() - begun_s > 2


def test_a_stream_that_pauses_too_long_is_cut(endpoint: S3Endpoint) -> None:
    store = open_store("s3://data", StoreConfig(timeout_s=1.0, max_attempts=1))
    store.put("stalled", bytes(3 << 20))
    endpoint.set_faults(Faults(stall_rate=1.0, stall_s=STALL_S))
    begun_s = time.monotonic()
    with pytest.raises(StoreError):
        list(store.stream_range("stalled", 0, 3 << 20, piece_bytes=1 << 20))
    assert time.monotonic() - begun_s < STALL_S
