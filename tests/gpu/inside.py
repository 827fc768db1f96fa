"""What tests of the GPU route share: staged chunks, inflated by other libraries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lz4.block
import numpy as np
import torch
import zstandard

from dataplane.codecs import STAGE_ALIGN, ChunkTable, Codec, stage, staged_bytes
from dataplane.gpu.elements import Normalise
from dataplane.gpu.placement import place
from tests.codecs.cases import Stored


def aligned(size: int) -> np.ndarray:
    """Return `size` bytes that begin at a boundary for streams."""
    memory = np.zeros(size + STAGE_ALIGN, np.uint8)
    start = -memory.ctypes.data % STAGE_ALIGN
    return memory[start : start + size]


def staged(table: ChunkTable, sources: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Return the staged bytes and their records."""
    buffer = aligned(staged_bytes(table, sources))
    return buffer, stage(table, sources, buffer)


def inflate(stream: np.void, buffer: np.ndarray) -> bytes:
    """Inflate one stream with nothing but LZ4 or zstd."""
    encoded = buffer[int(stream["offset"]) :][: int(stream["nbytes"])].tobytes()
    size = int(stream["decoded_bytes"])
    if stream["codec"] == Codec.LZ4:
        return lz4.block.decompress(encoded, uncompressed_size=size)
    decoder = zstandard.ZstdDecompressor().decompressobj()
    return decoder.decompress(encoded) + decoder.flush()


def inflated(
    streams: np.ndarray, buffer: np.ndarray, *, backwards: bool = False
) -> tuple[np.ndarray, torch.Tensor]:
    """Inflate all streams into one buffer, with a gap before each; return starts and buffer.

    Backwards, the last stream comes first: nothing may rely on the order.
    """
    starts = np.zeros(len(streams), np.int64)
    memory = bytearray()
    order = range(len(streams))
    for number in reversed(order) if backwards else order:
        memory += b"\xee" * 3
        starts[number] = len(memory)
        memory += inflate(streams[number], buffer)
    return starts, torch.from_numpy(np.frombuffer(memory, np.uint8).copy())


def place_stored(
    parts: Sequence[Stored],
    boxes: Sequence[Any],
    destinations: Sequence[torch.Tensor],
    *,
    normalise: Sequence[Normalise] | None = None,
    backwards: bool = False,
    **more: Any,
) -> None:
    """Stage, inflate and place boxes of arrays, one destination each."""
    table = ChunkTable.concatenate(
        [
            part.table(box, source=number, destination=number, **more)
            for number, (part, box) in enumerate(zip(parts, boxes, strict=True))
        ]
    )
    buffer, streams = staged(table, [part.source for part in parts])
    starts, memory = inflated(streams, buffer, backwards=backwards)
    place(table.rows, streams, starts, memory, destinations, normalise=normalise)
