"""Pack, warm, train without a byte from the store, damage the disk, find it, train again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dataplane.shards import DatasetWriter, WriteOptions
from dataplane.stores import open_store
from dataplane_testing.environment import exported
from dataplane_testing.generate import generate_samples
from dataplane_testing.s3 import S3Endpoint

pytest.importorskip("torch")

_EPOCH = """
import json, sys, hashlib
import dataplane as dp
digest = hashlib.sha256()
with dp.Dataset(sys.argv[1], cache=sys.argv[2]) as dataset:
    for batch in dp.DataLoader(dataset, batch_size=2, shuffle=True, seed=1, num_workers=2):
        for name in sorted(name for name in batch if name != "__key__"):
            digest.update(batch[name].numpy().tobytes())
print(json.dumps(dp.stats() | {"digest": digest.hexdigest()}))
"""


def run(*arguments: object) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_warmed_dataset_trains_without_the_store_also_after_damage(tmp_path: Path) -> None:
    with (
        S3Endpoint(root=tmp_path / "s3", buckets=("sims",)) as endpoint,
        exported(endpoint.environment()),
    ):
        url, cache = "s3://sims/cars", tmp_path / "cache"
        store = open_store(url)
        with DatasetWriter(store, WriteOptions(shard_bytes=8 << 20)) as writer:
            for sample in generate_samples(24 << 20, seed=3, kinds=("volume",)):
                writer.add(sample)
            writer.finish()
        stored = sum(info.size_bytes for info in store.list())
        store.close()
        warm = ("-m", "dataplane", "warm", url, "--cache-dir", cache, "--json")
        code, cold = run(*warm, "--check")
        assert (code, cold["missing_bytes"]) == (1, stored)
        code, warmed = run(*warm)
        assert (code, warmed["fetched_bytes"], warmed["missing_bytes"]) == (0, stored, 0)

        _, first = run("-c", _EPOCH, url, cache)
        assert first.get("store_get_bytes", 0) == first.get("cache_fetch_bytes", 0) == 0
        assert first["cache_hit_bytes"] > stored / 2
        assert first.get("cache_misses", 0) == 0

        data = max(cache.glob("entries/*/*.data"), key=lambda path: path.stat().st_size)
        with data.open("r+b") as file:
            byte = os.pread(file.fileno(), 1, 123_456)[0]
            os.pwrite(file.fileno(), bytes([byte ^ 4]), 123_456)
        verify = ("-m", "dataplane", "cache", "verify", "--cache-dir", cache, "--json")
        code, found = run(*verify)
        assert (code, found["corrupt_blocks"]) == (5, 1)
        assert found["bad"][0]["start"] == 0
        assert found["bad"][0]["key"].startswith("cars/shard-")
        code, partly = run(*warm, "--check")
        assert (code, partly["missing_bytes"]) == (1, found["dropped_bytes"])
        _, second = run("-c", _EPOCH, url, cache)
        assert second["digest"] == first["digest"]
        assert second["cache_fetch_bytes"] == found["dropped_bytes"]
        assert run(*verify)[0] == 0
