"""The cache case: the parts of `dataplane bench cache`, for its costs and its hit rates.

`reads`: warm reads beside plain `preadv` calls (`cache_reads.py`). `fill`: a cold fill beside raw
ranged GETs and writes to the disk (`cache_fill.py`). `hit-rate`: hits of shuffled epochs when the
dataset does not fit (`cache_hit_rate.py`). `nodes`: those of several nodes that share the samples
out by owner (`cache_nodes.py`). `entries`: costs of many entries (`cache_entries.py`).
"""

from __future__ import annotations

import dataclasses
import functools
import random
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from dataplane.cache import CacheConfig
from dataplane.stores import open_store
from dataplane_bench.cases.cache_entries import entry_costs
from dataplane_bench.cases.cache_fill import (
    KEY,
    CacheInput,
    ColdFill,
    DiskWrites,
    RawGets,
    RawOpenSsl,
    RawRequests,
    RawStreams,
)
from dataplane_bench.cases.cache_hit_rate import hit_rates
from dataplane_bench.cases.cache_nodes import node_rates
from dataplane_bench.cases.cache_reads import (
    BatchPreads,
    OneThread,
    Preads,
    WarmBatches,
    WarmReads,
)
from dataplane_bench.endpoint import start_endpoint
from dataplane_bench.model import Case, Figure, Row, System, summarise
from dataplane_bench.rounds import run_rounds, start_all
from dataplane_testing.s3 import Faults, S3Endpoint

__all__ = ["PARTS", "CacheOptions", "run"]

PARTS = ("reads", "fill", "hit-rate", "nodes", "entries")
_BUCKET = "bench"
_CLOUD = Faults(first_byte_s=0.02, bandwidth_bytes_per_s=80e6)
_CLOUD_NAME = "emulated cloud: 20 ms to the first byte, 80 MB/s a connection"


@dataclasses.dataclass(frozen=True, slots=True)
class CacheOptions:
    """Options of the cache case: parts, data, and rounds.

    Attributes:
        parts: parts of the benchmark, of `PARTS`.
        cache_dir: folder of cache directories; the system's temporary folder when None.
        object_bytes: size of the object.
        range_bytes: lengths of warm reads, one comparison each.
        reads: warm reads of 4 MiB per run; shorter ones are as many more, at most 64 times.
        batch_range_bytes: length of the ranges of a batch.
        batch_ranges: number of ranges that one call reads.
        fetch_threads: downloads under way at once.
        tls: whether the endpoint of the fill speaks TLS.
        encrypt: whether the cache is encrypted, for reads and the fill.
        shares: fractions of the dataset that the cache has space for, for hit rates.
        rate_blocks: blocks of that dataset.
        nodes: nodes that are measured, a process each.
        node_samples: samples of the dataset that they read, of 64 KiB.
        entries: numbers of entries.
        rounds: counted rounds, and epochs; one more warms up.
        seed: seed of the content, the offsets and the order of systems.
    """

    parts: tuple[str, ...] = PARTS
    cache_dir: Path | None = None
    object_bytes: int = 512 << 20
    range_bytes: tuple[int, ...] = (4 << 20, 64 << 10)
    reads: int = 256
    batch_range_bytes: int = 4 << 10
    batch_ranges: int = 1024
    fetch_threads: int = 8
    tls: bool = False
    encrypt: bool = False
    shares: tuple[float, ...] = (0.05, 0.1, 0.3, 0.5, 0.7, 0.9)
    rate_blocks: int = 400
    nodes: int = 4
    node_samples: int = 480
    entries: tuple[int, ...] = (1_000, 10_000, 100_000)
    rounds: int = 5
    seed: int = 0


def run(options: CacheOptions, progress: Callable[[str], None]) -> tuple[list[Row], list[Figure]]:
    """Run every part that is asked for; remove everything."""
    rows: list[Row] = []
    figures: list[Figure] = []
    prefix = "dataplane-bench-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=options.cache_dir) as name:
        folder = Path(name)
        if {"reads", "fill"} & set(options.parts):
            rows = _throughput(folder, options, progress)
        if "hit-rate" in options.parts:
            figures += hit_rates(
                folder,
                shares=options.shares,
                blocks=options.rate_blocks,
                epochs=options.rounds,
                seed=options.seed,
                progress=progress,
            )
        if "nodes" in options.parts:
            figures += node_rates(
                folder,
                nodes=options.nodes,
                samples=options.node_samples,
                epochs=options.rounds,
                seed=options.seed,
                progress=progress,
            )
        if "entries" in options.parts:
            figures += entry_costs(
                folder,
                counts=options.entries,
                rounds=options.rounds,
                seed=options.seed,
                progress=progress,
            )
    return rows, figures


def _throughput(folder: Path, options: CacheOptions, progress: Callable[[str], None]) -> list[Row]:
    """Write the object to an endpoint of our own, and compare warm reads and the cold fill."""
    rows: list[Row] = []
    with ExitStack() as stack:
        endpoint, environment = start_endpoint(stack, _BUCKET, tls=options.tls)
        url = f"s3://{_BUCKET}"
        store = open_store(url)
        stack.callback(store.close)
        progress("writing the object")
        info = store.put(KEY, np.random.default_rng(options.seed).bytes(options.object_bytes))
        given = CacheInput(
            url, info, folder, (), options.fetch_threads, options.encrypt, environment
        )
        if "reads" in options.parts:
            rows += _warm(given, options, progress)
        if "fill" in options.parts:
            rows += _cold(endpoint, given, options, progress)
    return rows


def _warm(given: CacheInput, options: CacheOptions, progress: Callable[[str], None]) -> list[Row]:
    rows: list[Row] = []
    dataset = _dataset(options)
    for range_bytes in options.range_bytes:
        warm = dataclasses.replace(given, ranges=_ranges(options, range_bytes))
        case = Case("cache", dataset, chunk_bytes=range_bytes, state="warm")
        rows += _compare(case, warm, (WarmReads, Preads), options, progress)
    ranges = _ranges(options, options.batch_range_bytes)
    batches = dataclasses.replace(given, ranges=ranges, batch=options.batch_ranges)
    case = Case(
        "cache", dataset, chunk_bytes=options.batch_range_bytes,
        selection=f"{options.batch_ranges} a call", state="warm",
    )  # fmt: skip
    return rows + _compare(case, batches, (WarmBatches, BatchPreads), options, progress)


def _cold(
    endpoint: S3Endpoint,
    given: CacheInput,
    options: CacheOptions,
    progress: Callable[[str], None],
) -> list[Row]:
    """Fill over loopback, where processors are the limit, and as from a cloud's store."""
    near = Case("cache", _dataset(options), chunk_bytes=CacheConfig().block_bytes, state="cold")
    systems: tuple[type[ColdFill | RawGets], ...] = (ColdFill, RawGets, RawRequests, RawStreams)
    if options.tls:
        systems = (ColdFill, RawOpenSsl, *systems[1:])
    rows = _compare(near, given, (*systems, DiskWrites), options, progress)
    endpoint.set_faults(_CLOUD)
    try:
        far = dataclasses.replace(near, dataset=f"{near.dataset}, {_CLOUD_NAME}")
        return rows + _compare(far, given, systems, options, progress)
    finally:
        endpoint.set_faults(Faults())


def _dataset(options: CacheOptions) -> str:
    over = " over TLS" if options.tls else ""
    return f"one object{over}, encrypted" if options.encrypt else f"one object{over}"


def _ranges(options: CacheOptions, range_bytes: int) -> tuple[tuple[int, int], ...]:
    random_ = random.Random(options.seed)
    slots = max(1, options.object_bytes // range_bytes)
    count = options.reads * min(64, max(1, (4 << 20) // range_bytes))
    starts = [random_.randrange(slots) * range_bytes for _ in range(count)]
    return tuple((s, min(s + range_bytes, options.object_bytes)) for s in starts)


def _compare(
    case: Case,
    given: CacheInput,
    systems: tuple[type[OneThread | ColdFill | RawGets | DiskWrites], ...],
    options: CacheOptions,
    progress: Callable[[str], None],
) -> list[Row]:
    contenders: list[tuple[str, int, Callable[[], System]]] = [
        (system.name, system.threads_for(given), functools.partial(system, given))
        for system in systems
    ]
    alive, costs = run_rounds(
        start_all(contenders, progress),
        rounds=options.rounds,
        warmup=1,
        seed=options.seed,
        progress=progress,
    )
    return summarise(case, alive, costs, ceiling=systems[1].name)
