"""What is made and abandoned while the garbage collector runs under every lock.

Each scenario makes objects as a program does, uses them halfway, and returns them, for `abandon` to
let go of them in a ring that only the collector can take apart: a program that keeps its loader in
an object which refers to itself does the same. Nothing is closed but the caches: their threads keep
them, until then or to the end of the process.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Self

import cloudpickle
import numpy as np

import dataplane as dp
from dataplane.cache import Cache, CacheConfig, PlannedRead
from dataplane.cache.disk.session import Session
from dataplane.cache.maintenance.verify import verify
from dataplane.loader.worker_process import WorkerProcess
from dataplane.pack import open_source
from dataplane.shards import DatasetWriter, SourceArray, SourceSample, WriteOptions
from dataplane.stores import open_store
from dataplane_fuse.caching import CacheBlocks
from dataplane_fuse.datasets import PackedDatasets
from dataplane_fuse.filesystem import Filesystem
from dataplane_testing.s3 import S3Endpoint

_BLOCK_BYTES = 64 << 10
_OBJECT_BYTES = 20 * _BLOCK_BYTES
_SAMPLES = 24


class Place:
    """A folder with objects and a packed dataset, and a server for them."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dataplane-collector-"))
        self.numbers = itertools.count()
        self.endpoint = S3Endpoint(buckets=("data",))
        with self.endpoint.exported():
            self.store = open_store("s3://data")
            self.store.put("blob", bytes(range(256)) * (_OBJECT_BYTES // 256))
            samples = DatasetWriter(open_store("s3://data/packed"), WriteOptions(codec="lz4"))
            with samples as writer:
                for number in range(_SAMPLES):
                    values = np.full((64, 64), number, "f4")
                    arrays = {"fields/u": SourceArray(values, None, None, {})}
                    writer.add(SourceSample(f"case-{number:02}", arrays, {}))
        with zipfile.ZipFile(self.folder / "files.zip", "w") as archive:
            for number in range(4):
                path = self.folder / f"a{number}.npy"
                np.save(path, np.arange(100.0))
                archive.write(path, path.name)

    def __enter__(self) -> Self:
        self._exported = self.endpoint.exported()
        self._exported.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._exported.__exit__(None, None, None)
        self.endpoint.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def cache_config(self) -> CacheConfig:
        """A cache of its own, every tenth time in a new directory."""
        number = next(self.numbers) // 10
        return CacheConfig(
            dir=self.folder / f"cache-{number}",
            block_bytes=_BLOCK_BYTES,
            request_bytes=4 * _BLOCK_BYTES,
            fetch_threads=2,
            size_bytes=12 * _BLOCK_BYTES,
            host_requests=2,
        )


def caches(place: Place) -> object:
    """Reads, a hold, a plan and a view of a cache."""
    cache = Cache(place.cache_config())
    store = open_store("s3://data")
    blob = cache.open(store, store.head("blob"))
    reads = [PlannedRead(blob, n << 16, (n + 1) << 16, step=n) for n in range(20)]
    plan = cache.plan(reads)
    hold = cache.lease(blob)
    content = blob.read(5, 3 * _BLOCK_BYTES)
    plan.advance(2)
    view = blob.view(0, 100)
    cache.close()
    return cache, blob, plan, hold, content, view, store


def verifications(place: Place) -> object:
    """A check of all blocks, with files of its own, in a session that nobody closes."""
    session = Session(place.cache_config().dir)
    result = verify(session)
    return session, result


def stores(place: Place) -> object:
    """Streams left in the middle: past the library, through it, hedged or not."""
    made: list[object] = []
    for direct in (True, False):
        store = open_store("s3://data", dp.StoreConfig(direct=direct))
        info = store.head("blob")
        streams = [
            store.stream_range(
                "blob", 0, _OBJECT_BYTES, piece_bytes=_BLOCK_BYTES, if_match=info.etag
            )
            for _ in range(3)
        ]
        pieces = [next(stream) for stream in streams]
        listing = store.list()
        first = next(iter(listing))
        made += [store, streams, pieces, listing, first]
    return made


def loaders(place: Place) -> object:
    """Passes left in the middle, with threads, a transform and a plan."""
    made: list[object] = []
    for workers, transform in ((0, None), (2, None), (2, dict)):
        config = place.cache_config()
        dataset = dp.Dataset("s3://data/packed", cache=config, transform=transform)
        loader = dp.DataLoader(dataset, batch_size=2, shuffle=True, num_workers=workers, seed=1)
        batches = iter(loader)
        batch = next(batches)
        made += [dataset, loader, batches, batch]
    Cache.shared(config).close()
    return made


def mounts(place: Place) -> object:
    """Files left open and directories read in part, in a file system that nobody closes."""
    store = open_store("s3://data")
    cache = Cache(place.cache_config())
    blocks = CacheBlocks(store, cache)
    tree = Filesystem(store, blocks, samples=PackedDatasets())
    names = tree.readdir("")
    name = next(names)
    samples = tree.readdir("packed")
    sample = next(samples)
    handle = tree.open("blob")
    tree.read_into(handle, 0, memoryview(bytearray(_BLOCK_BYTES)))
    tree.read_into(handle, _BLOCK_BYTES, memoryview(bytearray(_BLOCK_BYTES)))
    cache.close()
    return store, cache, blocks, tree, names, name, samples, sample


def sources(place: Place) -> object:
    """Simulation files read in part, an archive among them."""
    samples = open_source(place.folder / "files.zip")
    return samples, next(samples)


def workers(place: Place) -> object:
    """A worker process, and a result of it that stays in shared memory."""
    worker = WorkerProcess(cloudpickle.dumps(lambda array: array + 1), name="abandoned")
    return worker, worker.call(np.arange(_OBJECT_BYTES))


ALL: dict[str, Callable[[Place], object]] = {
    scenario.__name__: scenario
    for scenario in (caches, verifications, stores, loaders, mounts, sources, workers)
}


def abandon(name: str, place: Place) -> None:
    """Go through a scenario; only the garbage collector takes apart what it made."""
    ring = [ALL[name](place)]
    ring.append(ring)
