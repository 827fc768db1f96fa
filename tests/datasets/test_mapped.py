"""A warm epoch decodes from the cache's files in place; nobody can tell from the samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dataplane as dp
from dataplane._native import MappedRange
from dataplane.cache import CacheConfig
from dataplane.cache.maintenance import cleanup
from dataplane.codecs import STREAM_DTYPE, ChunkTable, stage, staged_bytes
from dataplane.datasets import in_place
from dataplane.datasets.batch import assemble, separate
from dataplane.datasets.reader import SampleReader
from dataplane.datasets.samples import FetchedSample, join_samples
from tests.cache.fakes import wait_until
from tests.datasets.inside import read_by
from tests.datasets.packed import SAMPLES, Packed, pack, source_sample

BLOCK = 16 << 10
NAMES = list(source_sample(0).arrays)


@pytest.fixture(autouse=True)
def _short_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_place, "MIN_MAPPED_BYTES", 1)


@pytest.fixture
def config(tmp_path: Path) -> CacheConfig:
    return CacheConfig(dir=tmp_path / "cache", block_bytes=BLOCK)


@pytest.fixture(params=["lz4", "zstd", "none"])
def stored(request, tmp_path: Path) -> Packed:
    samples = [source_sample(number) for number in range(SAMPLES)]
    return pack(tmp_path / request.param, samples, codec=request.param)


def warm_reader(packed: Packed, config: CacheConfig, names: list[str]) -> SampleReader:
    reader = dp.Dataset(packed.url, names, cache=config).reader()
    plans = [reader.planner.plan(index) for index in range(SAMPLES)]
    for plan in plans:
        read_by(plan, reader)
    for plan in plans:  # what was read from memory is soon on the disk, too
        wait_until(
            lambda plan=plan: all(
                reader.runtime.object(plan.shard).is_on_disk(*span) for span in plan.spans
            )
        )
    return reader


def fetched(reader: SampleReader) -> list[FetchedSample]:
    samples = [read_by(reader.planner.plan(index), reader) for index in range(SAMPLES)]
    assert all(isinstance(source, MappedRange) for one in samples for source in one.sources)
    return samples


def evict_all(reader: SampleReader) -> int:
    assert reader.runtime.cache is not None
    attachment = reader.runtime.cache.guard.current
    assert attachment is not None
    return cleanup.clear(attachment.session, in_use=True).blocks


def assert_samples(samples: list[dict], packed: Packed, names: list[str]) -> None:
    assert len(samples) == SAMPLES
    for sample in samples:
        values = packed.values(sample["__key__"])
        for name in names:
            got = sample[name].numpy()
            assert np.array_equal(got, values[name], equal_nan=values[name].dtype.kind in "fc"), (
                name
            )


def test_samples_are_the_same_in_place_and_from_copies(stored: Packed, config) -> None:
    reader = warm_reader(stored, config, NAMES)
    samples = fetched(reader)
    assert all(sample.rows is sample.plan.rows for sample in samples)  # one range each
    assert_samples(separate(samples, reader.layouts, threads=2), stored, NAMES)


def test_several_ranges_of_a_sample_are_several_buffers(
    stored: Packed, config, monkeypatch
) -> None:
    monkeypatch.setattr("dataplane.datasets.plan.ROUND_TRIP_BYTES", 0)
    names = ["points", "fields/velocity", "types/u8", "fields/empty"]
    reader = warm_reader(stored, config, names)
    samples = fetched(reader)
    assert min(len(sample.sources) for sample in samples) > 1
    assert_samples(separate(samples, reader.layouts), stored, names)


def test_many_ranges_of_a_sample_are_copied(stored: Packed, config, monkeypatch) -> None:
    monkeypatch.setattr("dataplane.datasets.plan.ROUND_TRIP_BYTES", 0)
    monkeypatch.setattr(in_place, "MAX_MAPPED_SPANS", 1)
    reader = warm_reader(stored, config, ["points", "types/u8"])
    sample = read_by(reader.planner.plan(3), reader)
    assert len(sample.plan.spans) > 1
    assert not any(isinstance(source, MappedRange) for source in sample.sources)


def test_nothing_is_leased_before_and_after_decoding(stored: Packed, config) -> None:
    reader = warm_reader(stored, config, NAMES)
    samples = fetched(reader)
    separate(samples, reader.layouts)
    assert evict_all(reader) > SAMPLES
    del samples


def test_what_is_evicted_before_it_is_decoded_is_read_again(stored: Packed, config) -> None:
    reader = warm_reader(stored, config, NAMES)
    samples = fetched(reader)
    assert evict_all(reader) > SAMPLES
    assert_samples(separate(samples, reader.layouts, threads=2), stored, NAMES)
    assert reader.runtime.cache is not None
    assert reader.runtime.cache.counters["cache_leases_refused"] > 0


def test_streams_are_staged_from_the_file_too(packed: Packed, config) -> None:
    reader = warm_reader(packed, config, ["fields/velocity"])
    rows, sources, _ = join_samples(fetched(reader), reader.layouts)
    table = ChunkTable(rows)
    copies = [bytes(memoryview(source)) for source in sources]
    staged = []
    for given in (sources, copies):
        out = bytearray(staged_bytes(table, given))
        streams = stage(table, given, out)
        assert streams.dtype == STREAM_DTYPE
        staged.append((bytes(out), streams.tobytes()))
    assert staged[0] == staged[1]


def test_a_chunk_that_is_damaged_in_the_cache_is_named_and_recovered(
    stored: Packed, config
) -> None:
    reader = warm_reader(stored, config, ["fields/velocity"])
    sample = fetched(reader)[4]
    entry = reader.planner.plan(4).entry.arrays["fields/velocity"]
    offset = int(entry.chunk_offsets[1]) + int(entry.chunk_nbytes[1]) // 2
    shard = reader.runtime.object(sample.plan.shard)
    assert shard is not None
    (path,) = config.dir.glob(f"entries/*/{shard.name}.data")
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(dp.ChecksumMismatch, match="'case-004'"):
        assemble([sample], reader.layouts)
    (again,) = reader.recover([4])
    batch = assemble([again], reader.layouts)
    assert np.array_equal(batch["fields/velocity"][0], stored.values("case-004")["fields/velocity"])


def test_few_samples_wait_to_be_decoded_in_place(
    stored: Packed, config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = warm_reader(stored, config, NAMES)
    monkeypatch.setattr(in_place, "MAX_MAPPED_SAMPLES", 2)
    samples = [read_by(reader.planner.plan(index), reader) for index in range(4)]

    def mapped() -> list[bool]:
        return [isinstance(one.sources[0], MappedRange) for one in samples]

    assert mapped() == [True, True, False, False]
    expected = separate(samples, reader.layouts)
    del samples[0]
    samples.append(read_by(reader.planner.plan(4), reader))
    assert mapped() == [True, False, False, True]
    again = separate(samples[:3], reader.layouts)
    assert [one["__key__"] for one in again] == [one["__key__"] for one in expected[1:]]


def test_short_ranges_are_copied(
    stored: Packed, config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = warm_reader(stored, config, NAMES)
    longest = max(
        stop - start for index in range(SAMPLES) for start, stop in reader.planner.plan(index).spans
    )
    monkeypatch.setattr(in_place, "MIN_MAPPED_BYTES", longest + 1)
    sample = read_by(reader.planner.plan(1), reader)
    assert not isinstance(sample.sources[0], MappedRange)


def test_a_sample_is_viewed_in_memory_only_where_half_of_it_is(
    stored: Packed, config: CacheConfig
) -> None:
    reader = warm_reader(stored, config, NAMES)
    plan = max((reader.planner.plan(index) for index in range(SAMPLES)), key=lambda it: it.spans)
    source = reader.runtime.object(plan.shard)
    cache = reader.runtime.cache
    assert source is not None
    assert cache is not None
    blocks = [
        block for start, stop in plan.spans for block in range(start // BLOCK, -(-stop // BLOCK))
    ]
    assert len(blocks) == len(set(blocks)) >= 3
    kinds, shares = [], []
    for held in range(len(blocks) + 1):
        keys = [(source.name, block) for block in blocks[:held]]
        for name, block in keys:
            cache.buffer.add((name, block))
            stop = min((block + 1) * BLOCK, source.info.size_bytes)
            assert cache.buffer.hold(name, {block: source.read(block * BLOCK, stop)}) == {block}
        there = sum(
            max(0, min(stop, (block + 1) * BLOCK) - max(start, block * BLOCK))
            for start, stop in plan.spans
            for block in blocks[:held]
        )
        share = there / sum(stop - start for start, stop in plan.spans)
        assert source.share_in_memory(plan.spans) == share
        shares.append(share)
        sample = read_by(plan, reader)
        kinds.append(any(isinstance(one, MappedRange) for one in sample.sources))
        cache.buffer.remove(keys)
        (values,) = separate([sample], reader.layouts)
        for name, expected in stored.values(values["__key__"]).items():
            if name in NAMES:
                assert values[name].numpy().tobytes() == expected.tobytes(), name
    assert kinds == [share < in_place.MIN_VIEWED_SHARE for share in shares]
    assert (shares[0], shares[-1]) == (0, 1)
    assert source.share_in_memory([(0, 0)]) == 0
