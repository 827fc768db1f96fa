"""Our decoder and the ceilings of the decode benchmark, each a `System` over one stored array."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dataplane.codecs import ChunkTable, codec_alone, decode, parse_pipeline
from dataplane_bench.cases.decode_data import Box, needed_fraction
from dataplane_bench.model import CEILING_PREFIX, OUR_SYSTEM, Cost
from dataplane_bench.rivals import decoders
from dataplane_bench.rounds import timed

__all__ = ["CodecAlone", "Memcpy", "NeededBytes", "OurDecoder", "StoredArray"]


class StoredArray:
    """One stored array and the boxes wanted of it, ready for our decoder.

    Attributes:
        encoded: mapped shard.
        table: chunks of all boxes.
        outs: destinations, one per box.
        nbytes: decoded bytes that are wanted.
        array_bytes: decoded bytes of the whole array.
    """

    def __init__(self, path: Path, boxes: Sequence[Box] | None) -> None:
        stored = decoders.read_shard_index(path)
        with stored.shard.open("rb") as stream:
            self.encoded = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        wanted = boxes if boxes is not None else [tuple((0, size) for size in stored.shape)]
        self.outs = decoders.batch_for(wanted, stored.dtype)
        self.table = ChunkTable.concatenate(
            ChunkTable.for_box(
                shape=stored.shape,
                chunk_shape=stored.chunk_shape,
                dtype=stored.dtype,
                pipeline=parse_pipeline(stored.codecs, stored.dtype),
                offsets=stored.offsets,
                nbytes=stored.nbytes,
                box=box,
                destination=number,
            )
            for number, box in enumerate(wanted)
        )
        self.nbytes = sum(int(out.nbytes) for out in self.outs)
        self.array_bytes = int(np.prod(stored.shape)) * stored.dtype.itemsize


class OurDecoder:
    """`dataplane.codecs.decode`, from the mapped shard into destinations allocated once."""

    name = OUR_SYSTEM

    def __init__(self, path: Path, threads: int, boxes: Sequence[Box] | None = None) -> None:
        self.threads = threads
        self._array = StoredArray(path, boxes)

    def run(self) -> Cost:
        """Decode all boxes in one call."""
        array = self._array

        def work() -> int:
            decode(array.table, [array.encoded], array.outs, threads=self.threads)
            return array.nbytes

        return timed(work, samples=1)

    def close(self) -> None:
        """Nothing stays open."""


class CodecAlone:
    """The ceiling: every stream decompressed into scratch, no un-shuffle, no placement."""

    name = f"{CEILING_PREFIX}codec"

    def __init__(self, path: Path, threads: int) -> None:
        self.threads = threads
        self._array = StoredArray(path, None)

    def run(self) -> Cost:
        """Decompress every stream once."""
        array = self._array

        def work() -> int:
            codec_alone(array.table, [array.encoded], threads=self.threads)
            return array.nbytes

        return timed(work, samples=1)

    def close(self) -> None:
        """Nothing stays open."""


class Memcpy:
    """The ceiling of ceilings: the decoded array copied to memory that is allocated once.

    With several threads each copies a part of its own. They share the memory, so that this shows
    the gain of a second thread for any system that writes that much.
    """

    name = f"{CEILING_PREFIX}memcpy"

    def __init__(self, path: Path, threads: int) -> None:
        self.threads = threads
        nbytes = StoredArray(path, None).nbytes
        source = decoders.aligned_empty([nbytes], np.dtype(np.uint8))
        source[:] = 1
        copy = decoders.aligned_empty([nbytes], np.dtype(np.uint8))
        copy[:] = 2
        self._nbytes = nbytes
        self._parts = list(
            zip(np.array_split(copy, threads), np.array_split(source, threads), strict=True)
        )
        self._pool = ThreadPoolExecutor(max(1, threads - 1), "bench-memcpy")

    def run(self) -> Cost:
        """Copy once."""

        def work() -> int:
            first, *others = self._parts
            pending = [self._pool.submit(np.copyto, *part) for part in others]
            np.copyto(*first)
            for copied in pending:
                copied.result()
            return self._nbytes

        return timed(work, samples=1)

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()


class NeededBytes:
    """The ceiling of crops and runs: the cost of the blocks they touch in a whole-array decode.

    The whole array is decoded, and the cost scaled to the part of it that the selection needs.

    Attributes:
        fraction: that part of the array.
    """

    name = f"{CEILING_PREFIX}needed bytes"

    def __init__(self, path: Path, threads: int, boxes: Sequence[Box]) -> None:
        self.threads = threads
        self._whole = OurDecoder(path, threads)
        wanted = StoredArray(path, boxes)
        self._nbytes = wanted.nbytes
        self.fraction = needed_fraction(wanted.table, wanted.encoded, wanted.array_bytes)

    def run(self) -> Cost:
        """Decode the whole array once."""
        cost = self._whole.run()
        return Cost(
            cost.elapsed_s * self.fraction, cost.cpu_s * self.fraction, self._nbytes, samples=1
        )

    def close(self) -> None:
        """Nothing stays open."""
