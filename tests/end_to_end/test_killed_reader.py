"""A reader that is killed leaves nothing to clean up: the next one gets every byte right."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import dataplane as dp
from dataplane.cache import Cache
from dataplane.shards import DatasetWriter, SourceSample, WriteOptions
from dataplane.stores import open_store
from dataplane_testing.generate import generate_samples
from dataplane_testing.s3 import Faults, S3Endpoint

KILLS = 10
URL = "s3://data/ds"
READER = """
import sys
import dataplane as dp
from dataplane.cache import CacheConfig
url, folder = sys.argv[1:]
dataset = dp.Dataset(url, cache=CacheConfig(dir=folder, block_bytes=256 << 10))
loader = dp.DataLoader(dataset, batch_size=1, shuffle=True, num_workers=2, seed=1)
print("started", flush=True)
for batch in loader:
    print(batch["__key__"][0], flush=True)
print("end", flush=True)
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[S3Endpoint, list[SourceSample]]]:
    """A packed dataset on an endpoint so slow that a cold epoch takes about four seconds."""
    samples = list(generate_samples(48 << 20, seed=5, kinds=("volume",), sample_bytes=1 << 20))
    with S3Endpoint(root=tmp_path / "s3", buckets=("data",)) as endpoint:
        environment = endpoint.environment()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            with DatasetWriter(open_store(URL), WriteOptions()) as writer:
                for sample in samples:
                    writer.add(sample)
                writer.finish()
            endpoint.set_faults(Faults(bandwidth_bytes_per_s=1.5e6))
            yield endpoint, samples
            endpoint.set_faults(Faults())


@pytest.mark.slow
def test_ten_readers_are_killed_in_the_cold_epoch_and_every_byte_is_right_afterwards(
    served: tuple[S3Endpoint, list[SourceSample]], tmp_path: Path
) -> None:
    endpoint, samples = served
    folder = tmp_path / "shared-cache"
    moments = random.Random(11)
    interrupted = 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-c", READER, URL, str(folder)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | endpoint.environment(),
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(moments.uniform(0.1, 0.7))
        process.send_signal(signal.SIGKILL)
        printed, complaints = process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not complaints
        interrupted += not printed.endswith("end\n")
    assert interrupted == KILLS, "every kill must hit the cold epoch"

    endpoint.set_faults(Faults())
    config = dp.CacheConfig(dir=folder, block_bytes=256 << 10)
    dataset = dp.Dataset(URL, cache=config)
    stored = sum(dataset.index.shards.values())
    expected = {sample.key: sample for sample in samples}
    seen = set()
    for batch in dp.DataLoader(dataset, batch_size=4, num_workers=2, seed=1, shuffle=True):
        for row, key in enumerate(batch["__key__"]):
            seen.add(key)
            for name, array in expected[key].arrays.items():
                np.testing.assert_array_equal(batch[name][row].numpy(), array.values)
    assert seen == set(expected)
    fetched = Cache.shared(config).counters["cache_fetch_bytes"]
    assert 0 < fetched < stored, "the killed readers must have left some blocks and not all"
