"""Decoders of one sharded Zarr v3 array on local disk: zarr-python, zarrs, tensorstore and others.

Every class reads the same files, which zarr-python wrote, from the page cache, and delivers the
whole array. `tensorstore` and `dataplane` decode into memory that is allocated once; so do the
chunk-wise readers (blosc2, numcodecs), whose loop over chunks is the shortest that Python allows.
Each runs in a process of its own (see `isolated`), because zarr's codec pipeline is a global.
"""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane_bench.model import Cost
from dataplane_bench.rounds import timed

__all__ = [
    "DECODERS",
    "Blosc2",
    "Numcodecs",
    "TensorStore",
    "TensorStoreAllocating",
    "ZarrPython",
    "Zarrs",
    "read_shard_index",
]

_EMPTY = 2**64 - 1


class ZarrPython:
    """zarr-python with its own codec pipeline."""

    name = "zarr-python"
    pipeline = "zarr.core.codec_pipeline.BatchedCodecPipeline"

    def __init__(self, folder: Path, threads: int) -> None:
        import zarr

        self.threads = threads
        zarr.config.set({
            "codec_pipeline.path": self.pipeline,
            "threading.max_workers": threads,
            "async.concurrency": max(2, threads * 2),
        })  # fmt: skip
        self._array: Any = zarr.open_array(str(folder), mode="r")

    def run(self) -> Cost:
        """Read the whole array."""
        return timed(lambda: int(np.asarray(self._array[...]).nbytes), samples=1)

    def close(self) -> None:
        """Nothing stays open."""


class Zarrs(ZarrPython):
    """zarr-python with the Rust pipeline of the zarrs package."""

    name = "zarrs"
    pipeline = "zarrs.ZarrsCodecPipeline"

    def __init__(self, folder: Path, threads: int) -> None:
        import zarr
        import zarrs  # noqa: F401 - registers its pipeline

        zarr.config.set({"codec_pipeline.chunk_concurrent_maximum": threads})
        super().__init__(folder, threads)


class TensorStore:
    """tensorstore, into a destination that is allocated once."""

    name = "tensorstore"

    def __init__(self, folder: Path, threads: int) -> None:
        import tensorstore

        self.threads = threads
        self._tensorstore: Any = tensorstore
        self._array: Any = tensorstore.open({
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(folder)},
            "context": {
                "data_copy_concurrency": {"limit": threads},
                "file_io_concurrency": {"limit": threads},
                "cache_pool": {"total_bytes_limit": 0},
            },
        }).result()  # fmt: skip
        self._out = np.empty(self._array.shape, self._array.dtype.numpy_dtype)

    def run(self) -> Cost:
        """Read the whole array into the destination."""

        def work() -> int:
            self._tensorstore.array(self._out).write(self._array).result()
            return int(self._out.nbytes)

        return timed(work, samples=1)

    def close(self) -> None:
        """Nothing stays open."""


class TensorStoreAllocating(TensorStore):
    """tensorstore, into a new destination each time, as `array.read()` does."""

    name = "tensorstore-allocating"

    def run(self) -> Cost:
        """Read the whole array into fresh memory."""
        return timed(lambda: int(self._array.read().result().nbytes), samples=1)


class _ChunkWise:
    """A loop over inner chunks in Python, for libraries that know chunks but not Zarr."""

    name = "chunk-wise"

    def __init__(self, folder: Path, threads: int) -> None:
        self.threads = threads
        self._shard, self._chunks, self._chunk_shape, self._out = _inner_chunks(folder)

    def run(self) -> Cost:
        """Decode every chunk and copy it to its place."""

        def work() -> int:
            for start, stop, place in self._chunks:
                decoded = self.decode(self._shard[start:stop])
                self._out[place] = np.frombuffer(decoded, self._out.dtype).reshape(
                    self._chunk_shape
                )
            return int(self._out.nbytes)

        return timed(work, samples=1)

    def decode(self, chunk: memoryview) -> Any:
        """Decode one chunk to bytes."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing stays open."""


class Blosc2(_ChunkWise):
    """python-blosc2, which also reads frames of blosc 1."""

    name = "blosc2"

    def __init__(self, folder: Path, threads: int) -> None:
        import blosc2

        super().__init__(folder, threads)
        blosc2.set_nthreads(threads)
        self._blosc2: Any = blosc2

    def decode(self, chunk: memoryview) -> Any:
        """Decode one blosc chunk."""
        return self._blosc2.decompress(chunk)


class Numcodecs(_ChunkWise):
    """numcodecs, the codecs beneath zarr-python."""

    name = "numcodecs"

    def __init__(self, folder: Path, threads: int) -> None:
        from numcodecs import blosc

        super().__init__(folder, threads)
        blosc.set_nthreads(threads)
        blosc.use_threads = threads > 1
        self._blosc: Any = blosc

    def decode(self, chunk: memoryview) -> Any:
        """Decode one blosc chunk."""
        return self._blosc.decompress(chunk)


def read_shard_index(
    folder: Path,
) -> tuple[dict[str, Any], Path, npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Find the inner chunks of an array that is one Zarr shard with its index at the end.

    Returns:
        The array's metadata, the shard's path, and uint64[n] offsets and lengths in C order.

    Source: Zarr v3 sharding_indexed codec; the index is u64 (offset, length) pairs, then crc32c.
    """
    meta = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
    shape = meta["shape"]
    inner = meta["codecs"][0]["configuration"]["chunk_shape"]
    path = folder / "c" / Path(*["0"] * len(shape))
    count = int(np.prod([n // c for n, c in zip(shape, inner, strict=True)]))
    with path.open("rb") as stream:
        stream.seek(-4 - 16 * count, 2)
        index = np.frombuffer(stream.read(16 * count), "<u8").reshape(count, 2)
    return meta, path, index[:, 0].copy(), index[:, 1].copy()


def _inner_chunks(
    folder: Path,
) -> tuple[
    memoryview,
    list[tuple[int, int, tuple[slice, ...]]],
    tuple[int, ...],
    npt.NDArray[Any],
]:
    """Map the shard into memory and say where each of its chunks lies and belongs."""
    meta, path, offsets, nbytes = read_shard_index(folder)
    sharding = meta["codecs"][0]["configuration"]
    chunk_shape = tuple(sharding["chunk_shape"])
    shape = tuple(meta["shape"])
    grid = tuple(n // c for n, c in zip(shape, chunk_shape, strict=True))
    with path.open("rb") as stream:
        shard = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    trailer = 4 if any(codec["name"] == "crc32c" for codec in sharding["codecs"]) else 0
    chunks = []
    for number, (offset, size) in enumerate(zip(offsets.tolist(), nbytes.tolist(), strict=True)):
        assert offset != _EMPTY, "benchmark arrays have no missing chunks"
        where = np.unravel_index(number, grid)
        place = tuple(
            slice(int(i) * c, (int(i) + 1) * c) for i, c in zip(where, chunk_shape, strict=True)
        )
        chunks.append((offset, offset + size - trailer, place))
    return shard, chunks, chunk_shape, np.empty(shape, np.dtype(meta["data_type"]))


DECODERS = (ZarrPython, Zarrs, TensorStore, TensorStoreAllocating, Blosc2, Numcodecs)
"""All contenders, in the order of the report."""
