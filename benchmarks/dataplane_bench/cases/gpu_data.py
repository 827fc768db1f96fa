"""Data of the GPU benchmark: chunks in memory, on the device, and packed, of a given ratio.

Turbulence keeps its noisy mantissas, which no lossless codec shortens; so a ratio is reached by
rounding: `bits_for` finds how many mantissa bits to keep, by encoding a piece with every number of
them. What comes out is near the ratio that was asked for, and reports say what it is.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from dataplane.codecs import (
    ChunkTable,
    Pipeline,
    encode_chunks,
    parse_pipeline,
    stage,
    staged_bytes,
)
from dataplane.gpu.device import Device
from dataplane.gpu.inflate import HostInflater
from dataplane.gpu.ring import PinnedRing
from dataplane.gpu.transfer import SLOTS
from dataplane.shards import DatasetWriter, WriteOptions
from dataplane.shards.rounding import round_mantissa
from dataplane.stores import open_store
from dataplane_bench.cases.decode_data import chunk_shape_for
from dataplane_testing.generate import generate_samples, turbulence

__all__ = [
    "SLOTS",
    "Chunks",
    "Staged",
    "bits_for",
    "make_chunks",
    "make_fields",
    "pack_volumes",
    "rounded",
    "synchronize",
]

_MANTISSA_BITS: Final = 23
_PIECE_ELEMENTS: Final = 64 << 10


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Chunks:
    """One array, encoded chunk by chunk as packed datasets have them.

    Attributes:
        array: float32[field,z,y,x], the elements.
        table: chunks, placed into one array of that shape.
        source: stored bytes.
    """

    array: npt.NDArray[np.float32]
    table: ChunkTable
    source: bytes

    @property
    def chunk_bytes(self) -> int:
        """Decoded size of a chunk."""
        row = self.table.rows[0]
        return int(np.prod(row["chunk_shape"][: int(row["ndim"])])) * self.array.itemsize

    @property
    def ratio(self) -> float:
        """Decoded over stored bytes."""
        return self.array.nbytes / len(self.source)


def make_fields(count: int, edge: int, seed: int) -> npt.NDArray[np.float32]:
    """Make turbulent fields, float32[count,edge,edge,edge]."""
    return np.stack([turbulence((edge,) * 3, seed=(seed, number)) for number in range(count)])


def bits_for(arrays: Sequence[npt.NDArray[Any]], codec: str, ratio: float) -> int:
    """Return the mantissa bits with which float32 arrays compress by about a ratio.

    Args:
        arrays: arrays that are stored together.
        codec: `lz4` or `zstd`.
        ratio: wanted ratio of decoded to stored bytes.
    """
    pipeline = _pipeline(codec)
    pieces = []
    for array in arrays:
        flat = array.reshape(-1)
        first = max(0, len(flat) - _PIECE_ELEMENTS) // 2
        pieces.append(flat[first : first + _PIECE_ELEMENTS])
    nbytes = sum(piece.nbytes for piece in pieces)

    def found(bits: int) -> float:
        rounded = [round_mantissa(piece, bits) for piece in pieces]
        return nbytes / sum(map(len, encode_chunks(rounded, pipeline)))

    ratios = {bits: found(bits) for bits in range(1, _MANTISSA_BITS + 1)}
    return min(ratios, key=lambda bits: (abs(ratios[bits] - ratio), -bits))


def rounded(array: npt.NDArray[np.float32], codec: str, ratio: float) -> npt.NDArray[np.float32]:
    """Return an array with as many mantissa bits as give about a ratio."""
    result: npt.NDArray[np.float32] = round_mantissa(array, bits_for([array], codec, ratio))
    return result


def make_chunks(
    array: npt.NDArray[np.float32], codec: str, chunk_bytes: int, *, threads: int
) -> Chunks:
    """Encode an array in chunks of a size, or the next smaller one that cuts it evenly.

    Raises:
        ConfigError: the array cannot be cut into chunks of that size.
    """
    pipeline = _pipeline(codec)
    chunk_shape = chunk_shape_for(array.shape, array.itemsize, chunk_bytes)
    grid = [size // edge for size, edge in zip(array.shape, chunk_shape, strict=True)]
    boxes = [
        tuple(slice(at * n, (at + 1) * n) for at, n in zip(place, chunk_shape, strict=True))
        for place in np.ndindex(*grid)
    ]
    encoded = encode_chunks([array[box] for box in boxes], pipeline, threads=threads)
    lengths = np.array([len(chunk) for chunk in encoded], np.uint64)
    table = ChunkTable.for_box(
        shape=array.shape,
        chunk_shape=chunk_shape,
        dtype=array.dtype,
        pipeline=pipeline,
        offsets=np.cumsum(lengths) - lengths,
        nbytes=lengths,
    )
    return Chunks(array, table, b"".join(encoded))


def pack_volumes(
    folder: Path, codec: str, ratio: float, *, total_bytes: int, sample_bytes: int, seed: int
) -> str:
    """Pack turbulent volumes that compress by about a ratio; return the dataset's URL."""
    url = f"file://{folder / f'{codec}-{ratio:g}'}"
    samples = generate_samples(total_bytes, seed=seed, kinds=("volume",), sample_bytes=sample_bytes)
    first = next(samples)
    bits = bits_for([one.values for one in first.arrays.values()], codec, ratio)
    options = WriteOptions(codec=codec, round_bits=bits)  # type: ignore[arg-type]  # it checks
    with DatasetWriter(open_store(url), options) as writer:
        for sample in itertools.chain([first], samples):
            writer.add(sample)
        writer.finish()
    return url


class Staged:
    """Streams of chunks that are on the device already, for what is done to them there.

    Args:
        device: device.
        chunks: chunks.
    """

    def __init__(self, device: Device, chunks: Chunks) -> None:
        self.device, self.chunks = device, chunks
        self.ring = PinnedRing(device, slots=SLOTS)
        slot = self.ring.acquire()
        buffer = slot.bytes(staged_bytes(chunks.table, [chunks.source]))
        self.streams = stage(chunks.table, [chunks.source], buffer.numpy().data)
        with device.side():
            self.staged = slot.upload(buffer)
            self.ring.release(slot, device.mark())
        synchronize(device)

    def inflated(self) -> tuple[torch.Tensor, Any]:
        """Return the inflated bytes on the device and where each stream's begin.

        The native decoder makes them, on the host: how is not what is measured.
        """
        slot = self.ring.acquire()
        with self.device.side():
            host = self.staged.cpu()
            found = HostInflater().inflate(host, self.streams, slot, str)
            memory = found.memory.to(self.device.torch_device, copy=True)
        self.ring.release(slot, None)
        synchronize(self.device)
        return memory, found.starts


def synchronize(device: Device) -> None:
    """Wait for all work that was queued on a device."""
    if device.torch_device.type == "cuda":
        torch.cuda.synchronize(device.torch_device)


def _pipeline(codec: str) -> Pipeline:
    options = WriteOptions(codec=codec)  # type: ignore[arg-type]  # it checks
    blosc = {"cname": codec, "clevel": options.effective_level, "shuffle": "shuffle", "typesize": 4}
    return parse_pipeline(
        [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "blosc", "configuration": blosc},
        ],
        np.dtype(np.float32),
    )
