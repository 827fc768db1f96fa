"""Parts are fetched in small blocks, and taken from large ones that are there already."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dataplane as dp
from dataplane.codecs import Codec
from dataplane.datasets.draws import Draws
from dataplane.shards import SourceArray, SourceSample
from tests.datasets.packed import Packed, pack

BLOCK = 4096


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    rng = np.random.default_rng(1)
    samples = [
        SourceSample(
            f"v{n}",
            {"f": SourceArray(rng.standard_normal((64, 64, 64)).astype("f4"), ("z", "y", "x"))},
            {},
        )
        for n in range(3)
    ]
    return pack(
        tmp_path_factory.mktemp("volumes"), samples, chunk_bytes=16 << 10, shard_bytes=1 << 30
    )


def fetched(dataset: dp.Dataset) -> int:
    cache = dataset.reader().runtime.cache
    assert cache is not None
    return int(cache.counters.snapshot().get("cache_fetch_bytes", 0))


def test_a_crop_fetches_little_more_than_the_chunks_that_it_touches(
    volumes: Packed, tmp_path: Path
) -> None:
    config = dp.CacheConfig(
        dir=tmp_path / "cache", block_bytes=1 << 20, part_block_bytes=BLOCK, next_epoch_bytes=0
    )
    with dp.Dataset(volumes.url, {"f": dp.crop((16, 16, 16))}, cache=config) as dataset:
        planner = dataset.reader().planner
        touched, ranges = 0, 0
        for number in range(3):
            plan = planner.plan(number, draw=int(Draws(7, 0).of(number)[0]))
            stored = plan.rows[plan.rows["codec"] != Codec.FILL]
            touched += int(stored["source_nbytes"].sum())
            ranges += len(plan.spans)
        before = fetched(dataset)
        assert len(list(dp.DataLoader(dataset, seed=7, num_workers=1))) == 3
        read = fetched(dataset) - before
    assert touched <= read <= touched + ranges * (2 * BLOCK + 16384)
    whole = sum(volumes.values(f"v{n}")["f"].nbytes for n in range(3))
    assert read < whole / 2


def test_parts_are_read_from_what_was_cached_whole(volumes: Packed, tmp_path: Path) -> None:
    config = dp.CacheConfig(dir=tmp_path / "cache", block_bytes=1 << 20, part_block_bytes=BLOCK)
    with dp.Dataset(volumes.url, cache=config) as whole:
        expected = [whole.numpy(n)["f"] for n in range(3)]
    with dp.Dataset(volumes.url, {"f": dp.crop((16, 16, 16), (1, 2, 3))}, cache=config) as parts:
        before = fetched(parts)
        for batch in dp.DataLoader(parts, num_workers=1):
            number = int(batch["__key__"][0][1:])
            assert np.array_equal(batch["f"][0].numpy(), expected[number][1:17, 2:18, 3:19])
        assert fetched(parts) == before
    # And what was read in parts leaves the large blocks alone.
    with dp.Dataset(volumes.url, cache=config) as whole:
        assert np.array_equal(whole.numpy(1)["f"], expected[1])


def test_parts_of_what_is_half_cached_in_large_blocks_are_fetched_in_small_ones(
    volumes: Packed, tmp_path: Path
) -> None:
    config = dp.CacheConfig(dir=tmp_path / "cache", block_bytes=1 << 20, part_block_bytes=BLOCK)
    with dp.Dataset(volumes.url, cache=config) as whole:
        whole.numpy(0)
    with dp.Dataset(volumes.url, {"f": dp.crop((4, 4, 4), (1, 2, 3))}, cache=config) as parts:
        before = fetched(parts)
        parts.numpy(2)
        assert 0 < fetched(parts) - before < 1 << 18
    with dp.Dataset(volumes.url, cache=config) as whole:
        for number in range(3):
            whole.numpy(number)
        runtime = whole.reader().runtime
        (shard,) = {whole.index.places(n).shard for n in range(3)}
        source = runtime.object(shard)
        assert source is not None
        source.read(0, source.info.size_bytes)
    with dp.Dataset(volumes.url, {"f": dp.crop((4, 4, 4), (1, 2, 3))}, cache=config) as parts:
        runtime = parts.reader().runtime
        large = runtime.object(shard)
        assert large is not None
        assert large.spec.block_bytes == 1 << 20
        entry = large._core.entry(large.name, large.spec)
        assert entry is not None
        assert entry.blocks.try_claim(0)
        entry.blocks.evict(0, 2**63)
        entry.blocks.release(0)
        small = runtime.object(shard)
        assert small is not None
        assert small.spec.block_bytes == BLOCK


def test_the_configuration_for_parts() -> None:
    config = dp.CacheConfig(fetch_threads=10)
    parts = config.for_parts()
    assert (parts.block_bytes, parts.fetch_threads) == (64 << 10, 40)
    assert dp.CacheConfig(block_bytes=8192).for_parts().block_bytes == 8192
    assert dp.CacheConfig(fetch_threads=200).for_parts().fetch_threads == 256
    with pytest.raises(dp.ConfigError, match="part_block_bytes must be a multiple of 4096"):
        dp.CacheConfig(part_block_bytes=1000)
