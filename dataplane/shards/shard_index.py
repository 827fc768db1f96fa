"""The index at the end of a Zarr shard: the place of each inner chunk. Pure functions.

Per inner chunk in C order a little-endian u64 offset and a u64 length, both 2^64-1 for a chunk that
is not stored; then the CRC-32C of all that. Offsets are relative to the shard.

Source: Zarr v3 codec sharding-indexed v1.0, with index codecs bytes and crc32c.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dataplane import _native
from dataplane.errors import ChecksumMismatch, FormatError
from dataplane.shards.model import MISSING_CHUNK
from dataplane.stores.base import Buffer

__all__ = ["pack_shard_index", "parse_shard_index", "shard_index_bytes"]

_INDEX_ENTRY_BYTES = 16
_CRC_BYTES = 4
MAX_CHUNKS = 1 << 32
"""Most inner chunks per array that a reader accepts; no real array has 64 GiB of shard index."""


def shard_index_bytes(chunks: int) -> int:
    """Size of the index of a shard with this many inner chunks."""
    return chunks * _INDEX_ENTRY_BYTES + _CRC_BYTES


def pack_shard_index(offsets: npt.NDArray[np.uint64], nbytes: npt.NDArray[np.uint64]) -> bytes:
    """Write a shard index: little-endian u64 pairs in C order, then their CRC32C."""
    pairs = np.empty((offsets.size, 2), "<u8")
    pairs[:, 0], pairs[:, 1] = offsets.ravel(), nbytes.ravel()
    packed = pairs.tobytes()
    return packed + _native.crc32c(packed).to_bytes(4, "little")


def parse_shard_index(
    data: Buffer, chunks: int, shard_bytes: int, where: str
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Read the index at the end of a shard.

    Args:
        data: last `shard_index_bytes(chunks)` bytes of the shard.
        chunks: number of inner chunks that the metadata declares.
        shard_bytes: size of the whole shard.
        where: place to name in messages.

    Returns:
        Offsets and lengths, both uint64[chunks], relative to the shard.

    Raises:
        FormatError: the length is wrong or an entry points outside the shard.
        ChecksumMismatch: the index is damaged.
    """
    if chunks > MAX_CHUNKS or len(data) != shard_index_bytes(chunks) or len(data) > shard_bytes:
        raise FormatError(f"{where}: {len(data)} bytes cannot be the index of {chunks} chunks")
    view = memoryview(data)
    declared = int.from_bytes(view[-_CRC_BYTES:], "little")
    found = _native.crc32c(view[:-_CRC_BYTES])
    if declared != found:
        raise ChecksumMismatch(f"{where}: shard index: crc32c {found:08x}, expected {declared:08x}")
    pairs = np.frombuffer(view[:-_CRC_BYTES], "<u8").reshape(chunks, 2)
    offsets, nbytes = pairs[:, 0].copy(), pairs[:, 1].copy()
    missing = (offsets == MISSING_CHUNK) & (nbytes == MISSING_CHUNK)
    room = np.uint64(shard_bytes - len(data))
    # `nbytes > room - offset`, never `offset + nbytes > room`: the sum could wrap around.
    outside = ~missing & ((offsets > room) | (nbytes > room - np.minimum(offsets, room)))
    if outside.any():
        chunk = int(np.flatnonzero(outside)[0])
        raise FormatError(
            f"{where}: chunk {chunk} at {offsets[chunk]} with {nbytes[chunk]} bytes "
            f"lies outside the shard of {shard_bytes} bytes"
        )
    return offsets, nbytes
