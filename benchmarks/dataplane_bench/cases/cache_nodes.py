"""Hit rates of many nodes, each with a cache for a part of the dataset: `assign="node"`.

*Simulated*: the product's own dealing (`datasets.ownership`) for up to 64 nodes, with a model of
each node's cache: what the node owns stays, as far as there is room, and what is left of the room
has guests, the first ones that came. *Measured*: one rank per node, each a process with a cache
directory of its own, which reads epochs through a `DataLoader`; the bytes that its store was asked
for are counted. The ranks run one after the other, since none needs the others.

Beside both: private caches, where ranks take turns, whose hit rate is the share that each has room
for.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from dataplane.cache import Cache, CacheConfig
from dataplane.cache.disk.entry_identity import map_disk_bytes
from dataplane.datasets.order import Shuffled
from dataplane.datasets.ownership import Nodes, deal
from dataplane.shards import DatasetIndex, DatasetWriter, SourceArray, SourceSample, WriteOptions
from dataplane.stores import open_store
from dataplane_bench.endpoint import start_endpoint
from dataplane_bench.model import CEILING_PREFIX, OUR_SYSTEM, Figure, figure

__all__ = ["node_rates", "simulated_rates"]

_STEPS = 25  # of an epoch in simulations
_BLOCK_BYTES = 4096
_SAMPLE_BYTES = 64 << 10  # of the measured dataset: a sample shares blocks with few others
_BUCKET = "bench"
_URL = f"s3://{_BUCKET}/nodes"
_COUNTS = (2, 4, 8, 16, 32, 64)
_SHARES = (4, 16, 64)
_QUANTITY = "hit rate of shuffled epochs, caches together hold the dataset"


def node_rates(
    folder: Path,
    *,
    nodes: int,
    samples: int,
    epochs: int,
    seed: int,
    progress: Callable[[str], None],
) -> list[Figure]:
    """Simulate tables of nodes, and measure one row of them.

    Args:
        folder: folder of the dataset and the cache directories.
        nodes: number of nodes that are measured.
        samples: samples of the dataset that is measured.
        epochs: number of counted epochs.
        seed: seed of the orders.
        progress: function that is called with the measurement under way.
    """
    figures = []
    for share in _SHARES:
        progress(f"nodes that take {share} samples a step, simulated")
        table = ("cache", f"{share} samples per node and step, simulated", _QUANTITY, "nodes")
        for count in _COUNTS:
            rates = simulated_rates(Nodes(count, share * _STEPS * count), share, epochs, seed=seed)
            figures.append(figure(table, OUR_SYSTEM, count, "share", rates))
            private = [1 / count]
            figures.append(figure(table, "private caches", count, "share", private))
    share = 4
    table = ("cache", f"{samples} samples, {share} per node and step", _QUANTITY, "nodes")
    rates = simulated_rates(Nodes(nodes, samples), share, epochs, seed=seed)
    figures.append(figure(table, f"{CEILING_PREFIX}simulated", nodes, "share", rates))
    with ExitStack() as stack:
        start_endpoint(stack, _BUCKET, tls=False)
        stored_bytes, shards = _pack(samples, seed)
        size_bytes = stored_bytes // nodes
        size_bytes += shards * map_disk_bytes(-(-stored_bytes // shards // _BLOCK_BYTES))
        for name, assign in ((OUR_SYSTEM, "node"), ("private caches", "turns")):
            progress(f"{nodes} nodes, {name}")
            found = [
                _in_a_process(folder, _Rank(rank, nodes, assign, share, epochs, seed), size_bytes)
                for rank in range(nodes)
            ]
            # The first epoch finds nothing in its cache, and reads as many samples as any other.
            cold, *counted = [sum(of_epoch) for of_epoch in zip(*found, strict=True)]
            rates = [1 - asked / cold for asked in counted]
            figures.append(figure(table, name, nodes, "share", rates))
    return figures


def simulated_rates(
    nodes: Nodes, share: int, epochs: int, *, room: float = 1.0, seed: int = 0
) -> list[float]:
    """Return the hit rate of each epoch after the first one.

    Args:
        nodes: the nodes, and the samples.
        share: samples per node and step.
        epochs: number of epochs that are counted.
        room: part of the dataset that all caches together have room for.
        seed: seed of the orders.
    """
    size = share * nodes.count
    places = int(room * nodes.samples / nodes.count)
    owned = nodes.owners(np.arange(nodes.samples))
    cached = np.zeros((nodes.count, nodes.samples), bool)
    rates = []
    for epoch in range(epochs + 1):
        order = Shuffled(nodes.samples).of_epoch(seed, epoch)
        steps = nodes.samples // size
        batches = order.read(np.arange(steps * size))[0].reshape(steps, size)
        node_of = deal(batches, nodes).ravel()
        samples = batches.ravel()
        is_hit = cached[node_of, samples]
        rates.append(float(is_hit.mean()))
        for node in range(nodes.count):
            new = samples[(node_of == node) & ~is_hit]
            kept = np.flatnonzero(cached[node])
            ranked = np.concatenate([kept, new])
            is_guest = owned[ranked] != node
            stays = ranked[np.argsort(is_guest, kind="stable")][:places]
            cached[node] = False
            cached[node, stays] = True
    return rates[1:]


@dataclass(frozen=True, slots=True)
class _Rank:
    """A rank, alone on its node, and what it reads."""

    rank: int
    world_size: int
    assign: str
    batch_size: int
    epochs: int
    seed: int


def _pack(samples: int, seed: int) -> tuple[int, int]:
    """Pack a dataset; return the size of its shards and their number."""
    values = np.random.default_rng(seed)
    with closing(open_store(_URL)) as store:
        with DatasetWriter(store, WriteOptions(codec="lz4", shard_bytes=16 << 20)) as writer:
            for number in range(samples):
                # Bytes that do not compress, so that all samples are of one size.
                field = values.integers(0, 2**31, _SAMPLE_BYTES // 4, dtype="i4")
                arrays = {"x": SourceArray(field, None, None, {})}
                writer.add(SourceSample(key=f"{number:06d}", arrays=arrays, attributes={}))
            writer.finish()
        shards = DatasetIndex.load(store).shards
    return sum(shards.values()), len(shards)


def _in_a_process(folder: Path, rank: _Rank, size_bytes: int) -> list[int]:
    """Return the bytes that one rank's store was asked for in each epoch."""
    config = CacheConfig(
        dir=Path(tempfile.mkdtemp(dir=folder, prefix=f"node{rank.rank}-")),
        block_bytes=_BLOCK_BYTES,
        size_bytes=size_bytes,
        prefetch_window_bytes=2 * rank.batch_size * _SAMPLE_BYTES,
        next_epoch_bytes=0,
    )
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(_fetched, rank, config).result()
    finally:
        shutil.rmtree(config.dir)


def _fetched(rank: _Rank, config: CacheConfig) -> list[int]:
    """Read epochs as one rank of a launcher that starts one on each node."""
    import dataplane as dp

    launcher = {"RANK": rank.rank, "WORLD_SIZE": rank.world_size, "LOCAL_WORLD_SIZE": 1}
    os.environ.update({name: str(number) for name, number in launcher.items()})
    found, before = [], 0
    with dp.Dataset(_URL, cache=config) as dataset:
        loader: Any = dp.DataLoader(
            dataset,
            rank.batch_size,
            shuffle=True,
            seed=rank.seed,
            drop_last=True,
            assign=cast(Any, rank.assign),
        )
        for _ in range(rank.epochs + 1):
            for _batch in loader:
                pass
            counters = Cache.shared(config).counters
            asked = int(counters["cache_fetch_bytes"] + counters["cache_passthrough_bytes"])
            found.append(asked - before)
            before = asked
    return found
