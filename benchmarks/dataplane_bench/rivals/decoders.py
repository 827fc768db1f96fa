"""Decoders of one sharded Zarr v3 array on local disk: zarr-python, zarrs, tensorstore and others.

Every class reads the same files, which zarr-python wrote, from the page cache, and delivers the
whole array or some boxes of it. `tensorstore` and `dataplane` decode into memory that is allocated
once; so do the chunk-wise readers (blosc2, numcodecs), whose loop over chunks is the shortest that
Python allows. Each runs in a process of its own (see `isolated`), because zarr's codec pipeline is
a global. A class names the codecs that it can read.
"""

from __future__ import annotations

import json
import mmap
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
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
    "ShardIndex",
    "TensorStore",
    "TensorStoreAllocating",
    "ZarrPython",
    "Zarrs",
    "aligned_empty",
    "batch_for",
    "read_shard_index",
]

_EMPTY = 2**64 - 1
_LINE_BYTES = 64
_BLOSC = ("blosc-zstd", "blosc-zstd-5", "blosc-lz4")
Box = tuple[tuple[int, int], ...]
_Boxes = Sequence[Box] | None


def aligned_empty(shape: Sequence[int], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return an array that begins at a multiple of 64 bytes, as tensors of PyTorch do.

    NumPy aligns to 16, so that rows of every reader would straddle cache lines.
    """
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.empty(nbytes + _LINE_BYTES, np.uint8)
    start = -memory.ctypes.data % _LINE_BYTES
    return memory[start : start + nbytes].view(dtype).reshape(tuple(shape))


def batch_for(boxes: Sequence[Box], dtype: np.dtype[Any]) -> list[npt.NDArray[Any]]:
    """Return a destination per box, all within one piece of memory, as a batch holds them."""
    shapes = [tuple(stop - start for start, stop in box) for box in boxes]
    sizes = [int(np.prod(shape, dtype=np.int64)) * dtype.itemsize for shape in shapes]
    starts = np.cumsum([0, *(-(-size // _LINE_BYTES) * _LINE_BYTES for size in sizes)])
    memory = aligned_empty([int(starts[-1])], np.dtype(np.uint8))
    return [
        memory[start : start + size].view(dtype).reshape(shape)
        for start, size, shape in zip(starts, sizes, shapes, strict=False)
    ]


def _slices(boxes: _Boxes) -> list[tuple[slice, ...]]:
    """Return the boxes as indices; one index for everything where there are none."""
    if boxes is None:
        return [(slice(None),)]
    return [tuple(slice(start, stop) for start, stop in box) for box in boxes]


class ZarrPython:
    """zarr-python with its own codec pipeline."""

    name = "zarr-python"
    codecs = (*_BLOSC, "zstd", "shuffle-zstd")
    pipeline = "zarr.core.codec_pipeline.BatchedCodecPipeline"

    def __init__(self, folder: Path, threads: int, boxes: _Boxes = None) -> None:
        import zarr

        # A warning that other implementations may not know numcodecs' shuffle: this only measures.
        warnings.simplefilter("ignore", UserWarning)
        self.threads = threads
        self._slices = _slices(boxes)
        zarr.config.set({
            "codec_pipeline.path": self.pipeline,
            "threading.max_workers": threads,
            "async.concurrency": max(2, threads * 2),
        })  # fmt: skip
        self._array: Any = zarr.open_array(str(folder), mode="r")

    def run(self) -> Cost:
        """Read every box."""

        def work() -> int:
            return sum(int(np.asarray(self._array[box]).nbytes) for box in self._slices)

        return timed(work, samples=1)

    def close(self) -> None:
        """Nothing stays open."""


class Zarrs(ZarrPython):
    """zarr-python with the Rust pipeline of the zarrs package."""

    name = "zarrs"
    pipeline = "zarrs.ZarrsCodecPipeline"

    def __init__(self, folder: Path, threads: int, boxes: _Boxes = None) -> None:
        import zarr
        import zarrs  # noqa: F401 - registers its pipeline

        zarr.config.set({"codec_pipeline.chunk_concurrent_maximum": threads})
        super().__init__(folder, threads, boxes)


class TensorStore:
    """tensorstore, into a destination that is allocated once."""

    name = "tensorstore"
    codecs = (*_BLOSC, "zstd")

    def __init__(self, folder: Path, threads: int, boxes: _Boxes = None) -> None:
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
        self._views = [self._array[box] for box in _slices(boxes)]
        whole = [tuple((0, size) for size in self._array.shape)]
        self._outs = batch_for(boxes or whole, self._array.dtype.numpy_dtype)

    def run(self) -> Cost:
        """Read every box into its destination."""

        def work() -> int:
            writes = [
                self._tensorstore.array(out).write(view)
                for out, view in zip(self._outs, self._views, strict=True)
            ]
            for write in writes:
                write.result()
            return sum(int(out.nbytes) for out in self._outs)

        return timed(work, samples=1)

    def close(self) -> None:
        """Nothing stays open."""


class TensorStoreAllocating(TensorStore):
    """tensorstore, into a new destination each time, as `array.read()` does."""

    name = "tensorstore-allocating"

    def run(self) -> Cost:
        """Read every box into fresh memory."""

        def work() -> int:
            reads = [view.read() for view in self._views]
            return sum(int(read.result().nbytes) for read in reads)

        return timed(work, samples=1)


class _ChunkWise:
    """A loop over inner chunks in Python, for libraries that know chunks but not Zarr."""

    name = "chunk-wise"

    def __init__(self, folder: Path, threads: int, boxes: _Boxes = None) -> None:
        self.threads = threads
        stored = read_shard_index(folder)
        with stored.shard.open("rb") as stream:
            self._shard = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        self._stored = stored
        wanted = boxes if boxes is not None else [tuple((0, size) for size in stored.shape)]
        self._outs = batch_for(wanted, stored.dtype)
        self._parts = [
            part
            for out, box in zip(self._outs, wanted, strict=True)
            for part in _parts(stored, box, out)
        ]
        codec = next(c["name"] for c in stored.codecs if c["name"] not in ("bytes", "crc32c"))
        self._decode = self.decoder(codec, stored.dtype.itemsize)

    def run(self) -> Cost:
        """Decode every chunk and copy the wanted part of it to its place."""

        def work() -> int:
            for start, stop, wanted, place in self._parts:
                decoded = np.frombuffer(self._decode(self._shard[start:stop]), self._stored.dtype)
                place[...] = decoded.reshape(self._stored.chunk_shape)[wanted]
            return sum(int(out.nbytes) for out in self._outs)

        return timed(work, samples=1)

    def decoder(self, codec: str, itemsize: int) -> Callable[[memoryview], Any]:
        """Return the function that decodes one chunk to bytes."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing stays open."""


class Blosc2(_ChunkWise):
    """python-blosc2, which also reads frames of blosc 1."""

    name = "blosc2"
    codecs = _BLOSC

    def decoder(self, codec: str, itemsize: int) -> Callable[[memoryview], Any]:
        """Return the decoder of blosc chunks."""
        import blosc2

        assert (codec, itemsize > 0) == ("blosc", True)
        blosc2.set_nthreads(self.threads)
        decode: Callable[[memoryview], Any] = blosc2.decompress
        return decode


class Numcodecs(_ChunkWise):
    """numcodecs, the codecs beneath zarr-python."""

    name = "numcodecs"
    codecs = (*_BLOSC, "zstd", "shuffle-zstd")

    def decoder(self, codec: str, itemsize: int) -> Callable[[memoryview], Any]:
        """Return the decoder of a codec, un-shuffling where the chain says so."""
        from numcodecs import Shuffle, blosc, zstd

        decode: Callable[[memoryview], Any]
        if codec == "blosc":
            blosc.set_nthreads(self.threads)
            blosc.use_threads = self.threads > 1
            decode = blosc.decompress
        elif codec == "zstd":
            decode = zstd.decompress
        else:
            shuffle = Shuffle(itemsize)

            def decode(chunk: memoryview) -> Any:
                return shuffle.decode(zstd.decompress(chunk))

        return decode


@dataclass(frozen=True, slots=True, eq=False)
class ShardIndex:
    """Places of the inner chunks of a one-shard array.

    Attributes:
        shard: path of the file.
        shape: shape of the array.
        chunk_shape: shape of an inner chunk.
        dtype: type of the elements.
        codecs: inner codec chain of the metadata.
        offsets: uint64[n], in C order over the chunks that hold elements of the array.
        nbytes: uint64[n], stored lengths in the same order.
    """

    shard: Path
    shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    codecs: list[dict[str, Any]]
    offsets: npt.NDArray[np.uint64]
    nbytes: npt.NDArray[np.uint64]


def read_shard_index(folder: Path) -> ShardIndex:
    """Find the inner chunks of an array that is one Zarr shard with its index at the end.

    Source: Zarr v3 sharding_indexed codec; the index is u64 (offset, length) pairs, then crc32c.
    """
    meta = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
    shape = tuple(meta["shape"])
    shard_shape = meta["chunk_grid"]["configuration"]["chunk_shape"]
    sharding = meta["codecs"][0]["configuration"]
    chunk_shape = tuple(sharding["chunk_shape"])
    assert all(n <= s for n, s in zip(shape, shard_shape, strict=True)), "one shard"
    path = folder / "c" / Path(*["0"] * len(shape))
    count = int(np.prod([n // c for n, c in zip(shard_shape, chunk_shape, strict=True)]))
    with path.open("rb") as stream:
        stream.seek(-4 - 16 * count, 2)
        index = np.frombuffer(stream.read(16 * count), "<u8").reshape(count, 2)
    return ShardIndex(
        shard=path,
        shape=shape,
        chunk_shape=chunk_shape,
        dtype=np.dtype(meta["data_type"]),
        codecs=sharding["codecs"],
        offsets=index[:, 0].copy(),
        nbytes=index[:, 1].copy(),
    )


def _parts(
    stored: ShardIndex, box: Box, out: npt.NDArray[Any]
) -> Iterator[tuple[int, int, tuple[slice, ...], npt.NDArray[Any]]]:
    """Yield for every chunk that a box touches its place, the wanted part and its destination."""
    grid = tuple(-(-n // c) for n, c in zip(stored.shape, stored.chunk_shape, strict=True))
    trailer = 4 if any(codec["name"] == "crc32c" for codec in stored.codecs) else 0
    touched = [
        range(start // c, -(-stop // c))
        for (start, stop), c in zip(box, stored.chunk_shape, strict=True)
    ]
    for index in product(*touched):
        number = int(np.ravel_multi_index(index, grid))
        offset, size = int(stored.offsets[number]), int(stored.nbytes[number])
        assert offset != _EMPTY, "benchmark arrays have no missing chunks"
        wanted, place = [], []
        for i, c, (start, stop) in zip(index, stored.chunk_shape, box, strict=True):
            lo, hi = max(start, i * c), min(stop, (i + 1) * c)
            wanted.append(slice(lo - i * c, hi - i * c))
            place.append(slice(lo - start, hi - start))
        yield offset, offset + size - trailer, tuple(wanted), out[tuple(place)]


DECODERS = (ZarrPython, Zarrs, TensorStore, TensorStoreAllocating, Blosc2, Numcodecs)
"""All contenders, in the order of the report."""
