"""Packed to a real S3 server, streamed from it twice, and resumed in the middle of an epoch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import dataplane as dp
from dataplane.cache import Cache, CacheConfig
from dataplane.pack import pack

pytestmark = pytest.mark.ceph
SAMPLES = 9
ARRAYS = {"fields/p": (24, 20, 16), "points": (500, 3)}


def _sources(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    sources = {}
    for number in range(SAMPLES):
        arrays = {name: rng.standard_normal(shape, "f4") for name, shape in ARRAYS.items()}
        np.savez(folder / f"case{number}.npz", **arrays)
        sources[f"case{number}"] = arrays
    return sources


def _loader(url: str, cache: CacheConfig) -> dp.DataLoader:
    dataset = dp.Dataset(url, list(ARRAYS), cache=cache)
    return dp.DataLoader(dataset, batch_size=2, shuffle=True, seed=5, num_workers=2)


def _keys(batches: list[dict[str, object]]) -> list[list[str]]:
    return [batch["__key__"] for batch in batches]


def test_two_epochs_and_a_resume_give_the_packed_values(s3_url: str, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    expected = _sources(tmp_path / "runs")
    assert pack([tmp_path / "runs"], f"{s3_url}/ds").samples == SAMPLES
    cache = CacheConfig(dir=tmp_path / "cache-of-loader", block_bytes=64 << 10)
    counters = Cache.shared(cache).counters
    fetched, epochs = [], []
    try:
        loader = _loader(f"{s3_url}/ds", cache)
        for _ in range(2):
            batches = list(loader)
            epochs.append(_keys(batches))
            fetched.append(counters["cache_fetch_bytes"])
            for batch in batches:
                for row, key in enumerate(batch["__key__"]):
                    for name, values in expected[key].items():
                        assert np.array_equal(batch[name][row].numpy(), values), (key, name)
        for keys in epochs:
            assert sorted(key for batch in keys for key in batch) == sorted(expected)
        assert epochs[0] != epochs[1]
        assert fetched[0] > sum(a.nbytes for arrays in expected.values() for a in arrays.values())
        assert fetched[1] == fetched[0], "the second epoch came from the cache"
        begun = _loader(f"{s3_url}/ds", cache)
        stopped = iter(begun)
        assert [next(stopped)["__key__"] for _ in range(2)] == epochs[0][:2]
        state = json.loads(json.dumps(begun.state_dict()))
        del stopped
        resumed = _loader(f"{s3_url}/ds", cache)
        resumed.load_state_dict(state)
        assert _keys(list(resumed)) == epochs[0][2:]
        assert _keys(list(resumed)) == epochs[1]
    finally:
        Cache.shared(cache).close()
