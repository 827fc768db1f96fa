"""Datasets of very many samples: what a sample costs in memory, and what is read of the index."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dataplane as dp
from dataplane.shards import DatasetIndex, index_file, index_records
from dataplane.stores import open_store
from dataplane_testing.many_samples import pack_many

MAX_BYTES_PER_SAMPLE = 300
MAX_PEAK_BYTES_PER_SAMPLE = 600
FEW, MANY = 60_000, 210_000

MEASURE = """
import ctypes, gc, json, sys
import pyarrow as pa
import dataplane as dp

def kib(path, name):
    with open(path) as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

dataset = dp.Dataset(sys.argv[1], cache=sys.argv[2])
loader = dp.DataLoader(dataset, batch_size=64, shuffle=True, num_workers=0, seed=1)
batches = iter(loader)
assert len(next(batches)["__key__"]) == 64
gc.collect()
# What the order's arithmetic and Arrow's decoder left with their allocators is not the index's.
ctypes.CDLL(None).malloc_trim(0)
pa.default_memory_pool().release_unused()
resident = kib("/proc/self/smaps_rollup", "Rss:")
print(json.dumps([resident * 1024, kib("/proc/self/status", "VmHWM:") * 1024]))
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("is_ragged", [False, True])
def test_a_sample_more_costs_some_hundred_bytes(tmp_path: Path, is_ragged: bool) -> None:
    measured = []
    for samples in (FEW, MANY):
        folder = tmp_path / str(samples)
        url = pack_many(folder, samples, distinct=64, elements=100, is_ragged=is_ragged)
        given = [sys.executable, "-c", MEASURE, url, str(tmp_path / f"cache-{samples}")]
        runs = [
            json.loads(subprocess.run(given, check=True, capture_output=True, text=True).stdout)
            for _ in range(2)
        ]
        # What allocators keep and when blocks arrive is chance, and only adds to it.
        measured.append([min(figures) for figures in zip(*runs, strict=True)])
    few, many = measured
    resident, peak = ((b - a) / (MANY - FEW) for a, b in zip(few, many, strict=True))
    print(f"{resident:.0f} bytes a sample, at most {peak:.0f}")
    assert resident < MAX_BYTES_PER_SAMPLE
    assert peak < MAX_PEAK_BYTES_PER_SAMPLE


@pytest.mark.parametrize("is_ragged", [False, True])
def test_samples_are_listed_again_and_read(tmp_path: Path, is_ragged: bool) -> None:
    url = pack_many(tmp_path / "many", 100, distinct=7, elements=50, is_ragged=is_ragged)
    dataset = dp.Dataset(url, cache=False)
    assert len(dataset) == 100
    for number in (0, 13, 99):
        stored, sample = dataset.numpy(number % 7), dataset.numpy(number)
        assert sample["__key__"] == f"case-{number:08d}"
        assert np.array_equal(sample["x"], stored["x"])
        assert np.array_equal(sample["fields/y"], stored["fields/y"])
        assert dataset.attributes(number)["number"] == number
        assert dataset.index.find(sample["__key__"]) == number


@pytest.mark.parametrize("limit_bytes", [0, 1 << 30])
def test_attributes_and_statistics_are_read_wherever_the_file_is_kept(
    tmp_path: Path, limit_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_file, "MAX_IN_MEMORY_BYTES", limit_bytes)
    monkeypatch.setattr(index_records, "MAX_KEPT_BYTES", 1)
    # Several row groups: the last has fewer samples than the others.
    url = pack_many(tmp_path / "many", 40_000, distinct=3, elements=10)
    index = DatasetIndex.load(open_store(url))
    assert index._file.is_in_memory == (limit_bytes > 0)
    assert index._records._footer.num_row_groups > 1
    table = index.columns(["sample_attributes", "min", "sample_index", "array"]).to_pylist()
    for number in (0, 39_999, 5, 32_768, 32_767):
        first = 2 * number
        assert table[first]["sample_index"] == number
        entry = index[number]
        assert entry.attributes == index.attributes(number)
        assert entry.attributes == json.loads(table[first]["sample_attributes"])
        assert [a.stats.minimum for a in entry.arrays.values() if a.stats] == [
            row["min"] for row in table[first : first + 2]
        ]
        assert index.places(number).attributes == {}


def test_an_index_that_cannot_be_put_aside_stays_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = [bytes([n]) * 1000 for n in range(5)]
    monkeypatch.setattr(index_file, "MAX_IN_MEMORY_BYTES", 2500)
    assert not index_file.IndexFile(pieces).is_in_memory

    written = []

    def full(fd: int, view: memoryview) -> int:
        written.append(len(view))
        if len(written) == 5:
            raise OSError("no space left")
        return os_write(fd, view[:700])

    os_write = index_file.os.write
    monkeypatch.setattr(index_file.os, "write", full)
    file = index_file.IndexFile(pieces)
    assert file.is_in_memory
    assert len(written) == 5
    assert file.open().read() == b"".join(pieces)
    assert file.size_bytes == 5000
    monkeypatch.undo()

    monkeypatch.setattr(index_file, "MAX_IN_MEMORY_BYTES", 2500)
    monkeypatch.setattr(index_file.tempfile, "tempdir", str(tmp_path / "missing"))
    file = index_file.IndexFile(pieces)
    assert file.is_in_memory
    assert file.read(900, 2100) == b"".join(pieces)[900:2100]
