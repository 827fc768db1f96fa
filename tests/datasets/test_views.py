"""A cold epoch decodes from the memory of downloaded blocks; nobody can tell from the samples."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import dataplane as dp
from dataplane.cache import CacheConfig
from dataplane.datasets.batch import separate
from tests.datasets.packed import SAMPLES, Packed

BLOCK = 16 << 10  # two chunks, which lie anywhere


@pytest.fixture
def config(tmp_path: Path) -> CacheConfig:
    return CacheConfig(dir=tmp_path / "cache", block_bytes=BLOCK)


def assert_sample(sample: dict, packed: Packed) -> None:
    for name, values in packed.values(sample["__key__"]).items():
        got = sample[name].numpy()
        assert np.array_equal(got, values, equal_nan=values.dtype.kind in "fc"), name


def test_samples_are_the_same_from_memory_and_from_the_disk(packed: Packed, config) -> None:
    names = list(packed.samples[0].arrays)
    dataset = dp.Dataset(packed.url, names, cache=config)
    reader = dataset.reader()
    cold = reader.fetch(range(SAMPLES))
    assert sum(len(sample.sources) for sample in cold) > 2 * SAMPLES  # blocks, and what was copied
    for sample in cold:
        kept = sum(memoryview(source).nbytes for source in sample.sources)
        assert kept <= 3 * sample.plan.packed_bytes
    for sample in separate(cold, reader.layouts, threads=2):
        assert_sample(sample, packed)
    del cold
    warm = reader.fetch(range(SAMPLES))
    assert all(len(sample.sources) == 1 and sample.rows is sample.plan.rows for sample in warm)
    for sample in separate(warm, reader.layouts):
        assert_sample(sample, packed)


def test_a_loader_gives_the_same_batches_cold_and_warm(packed: Packed, config) -> None:
    dataset = dp.Dataset(packed.url, ["fields/velocity", "points"], cache=config)
    for _ in range(2):
        loader = dp.DataLoader(dataset, batch_size=3, shuffle=True, num_workers=2, seed=3)
        keys = []
        for batch in loader:
            keys += batch["__key__"]
            for slot, key in enumerate(batch["__key__"]):
                values = packed.values(key)
                assert np.array_equal(batch["fields/velocity"][slot], values["fields/velocity"])
                first, last = batch["points.offsets"][slot : slot + 2].tolist()
                assert np.array_equal(batch["points"][first:last], values["points"])
        assert len(set(keys)) == SAMPLES


def test_a_small_part_of_a_block_does_not_keep_the_block(packed: Packed, tmp_path: Path) -> None:
    config = CacheConfig(dir=tmp_path / "cache", block_bytes=256 << 10)
    dataset = dp.Dataset(packed.url, ["points", "global_data/mach"], cache=config)
    reader = dataset.reader()
    (sample,) = reader.fetch([2])
    assert len(sample.sources) == 1
    assert memoryview(sample.sources[0]).nbytes <= sample.plan.packed_bytes
    (decoded,) = separate([sample], reader.layouts)
    assert np.array_equal(decoded["points"].numpy(), packed.values("case-002")["points"])


def test_a_corrupt_chunk_is_named_by_its_place_in_the_shard(
    packed: Packed, config, tmp_path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(packed.folder, folder)
    copy = Packed(folder, packed.samples)
    entry = dp.Dataset(copy.url).index[4].arrays["fields/velocity"]
    chunk = 1
    offset = int(entry.chunk_offsets[chunk])
    content = bytearray((folder / entry.shard).read_bytes())
    content[offset + int(entry.chunk_nbytes[chunk]) // 2] ^= 1
    (folder / entry.shard).write_bytes(content)
    reader = dp.Dataset(copy.url, ["points", "fields/velocity"], cache=config).reader()
    samples = reader.fetch([3, 4])
    assert len(samples[1].sources) > 1
    with pytest.raises(dp.ChecksumMismatch) as raised:
        separate(samples, reader.layouts)
    for part in ("'case-004'", "'fields/velocity'", "chunk 1/0/0", entry.shard, f"byte {offset}"):
        assert part in str(raised.value)
