"""Many processes that start at once on one cold dataset download each block once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter

from dataplane.shards import DatasetWriter, WriteOptions
from dataplane.stores import open_store
from dataplane_testing.generate import generate_samples
from dataplane_testing.s3 import Faults, S3Endpoint

BLOCK = 256 << 10
URL = "s3://data/ds"
READER = """
import json, sys
import dataplane as dp
from dataplane.cache import Cache, CacheConfig
config = CacheConfig(dir=sys.argv[1], block_bytes=int(sys.argv[2]))
dataset = dp.Dataset("s3://data/ds", cache=config)
loader = dp.DataLoader(dataset, batch_size=2, shuffle=True, num_workers=1, seed=1)
keys = [key for batch in loader for key in batch["__key__"]]
counters = Cache.shared(config).counters
print(json.dumps([sorted(keys), counters["cache_fetches"]]))
"""


def test_each_block_is_downloaded_once_per_host(tmp_path, monkeypatch, trials, report) -> None:
    count = trials(8, 4)
    with S3Endpoint(root=tmp_path / "s3", buckets=("data",)) as endpoint:
        for name, value in endpoint.environment().items():
            monkeypatch.setenv(name, value)
        with DatasetWriter(open_store(URL), WriteOptions(shard_bytes=4 << 20)) as writer:
            size = trials(64, 12) << 20
            for sample in generate_samples(size, seed=3, kinds=("volume",), sample_bytes=1 << 20):
                writer.add(sample)
            writer.finish()
        endpoint.clear_requests()
        endpoint.set_faults(Faults(first_byte_s=0.005))
        command = [sys.executable, "-c", READER, str(tmp_path / "cache"), str(BLOCK)]
        readers = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ.copy())
            for _ in range(count)
        ]
        answers = [json.loads(reader.communicate(timeout=600)[0]) for reader in readers]
        asked = Counter(
            (record.key, start)
            for record in endpoint.requests()
            if record.operation == "GetObject" and record.key.endswith(".tar")
            for start in range(*record.range, BLOCK)
        )
    assert len({tuple(keys) for keys, _ in answers}) == 1
    assert sum(fetches for _, fetches in answers) == len(asked)
    assert set(asked.values()) == {1}, asked.most_common(3)
    report(f"{count} processes, {len(asked)} blocks: each was downloaded once")
