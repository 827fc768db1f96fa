"""The still-compressed streams of a chunk table in one buffer, for decompressors of many streams.

GPUs inflate thousands of streams in one call (DALI's `decoders.inflate`, nvCOMP), but know nothing
of Blosc's or Zarr's headers. `stage` leaves those behind: every stream begins on a 16-byte boundary
and is plain LZ4 or zstd, also where it was stored uncompressed, and a record says what it inflates
to. Checksums of chunks are checked on the way. Nothing is decompressed, and chunks are staged
whole: crops are up to the receiver.

What a chunk's streams inflate to, laid at their `decoded_start`, is the chunk with each block still
shuffled: in a block of `block_bytes` bytes, byte t of every element comes before byte t + 1
(`shuffle` 1), or bit k of every element before bit k + 1 (`shuffle` 2), or nothing was moved (0).
The byte order is that of the array's metadata.

One native call, without the GIL, with as many threads as asked for. Thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dataplane import _native
from dataplane.codecs.decode import EncodedBuffer
from dataplane.codecs.errors import failure_to_error
from dataplane.codecs.table import ChunkTable
from dataplane.errors import ConfigError, DataplaneError
from dataplane.stores import Buffer

__all__ = ["STAGE_ALIGN", "STREAM_DTYPE", "stage", "staged_bytes"]

STAGE_ALIGN: Final = _native.stage_align
"""Streams begin at multiples of this many bytes of the buffer, which begins at one itself."""

STREAM_DTYPE: Final = np.dtype(
    [
        ("offset", np.uint64),
        ("nbytes", np.uint64),
        ("decoded_bytes", np.uint64),
        ("decoded_start", np.uint64),
        ("block_bytes", np.uint64),
        ("row", np.uint32),
        ("codec", np.uint8),
        ("shuffle", np.uint8),
        ("typesize", np.uint8),
        ("reserved", np.uint8),
    ]
)
"""One stream: where it is in the buffer, where what it inflates to goes in the chunk of its row,
and whether it is LZ4 (a bare block) or zstd, in the numbers of `Codec`.

Source: struct StagedStream in native/core/decode/stage.hpp, which a test compares with this."""

_NO_ROOM: Final = "buffer for the streams"
_MISALIGNED: Final = "start of the buffer (16-byte boundary)"


def staged_bytes(
    table: ChunkTable,
    sources: Sequence[EncodedBuffer],
    *,
    threads: int = 1,
    describe: Callable[[int], str] | None = None,
) -> int:
    """Return how large a buffer `stage` needs; the arguments and errors are the same."""
    needed, _ = _call(table, sources, None, threads, describe)
    return needed


def stage(
    table: ChunkTable,
    sources: Sequence[EncodedBuffer],
    buffer: Buffer,
    *,
    threads: int = 1,
    describe: Callable[[int], str] | None = None,
) -> npt.NDArray[Any]:
    """Gather the streams of every row of `table` into `buffer`.

    Args:
        table: chunks; where their elements are to go does not matter.
        sources: contiguous buffers of encoded bytes.
        buffer: writable memory, contiguous, on a 16-byte boundary, at least `staged_bytes(…)` long;
            pinned memory, if it goes to a GPU. What is beyond the streams is not written.
        threads: most threads that copy, the calling one included.
        describe: text for a row in error messages.

    Returns:
        STREAM_DTYPE[streams], in the order of rows and, within a row, of `decoded_start`. A row of
        fill value has no stream.

    Raises:
        ConfigError: the buffer is too small or begins elsewhere; nothing was written.
        DecodeError: a chunk is truncated, contradicts itself, or fails its checksum; nothing was
            written.
        FormatError: a chunk uses a codec that this build does not know.

    Example:
        >>> from dataplane.codecs import encode_chunk, parse_pipeline
        >>> pipeline = parse_pipeline([{"name": "blosc", "configuration": {"cname": "lz4"}}], "f4")
        >>> stored = encode_chunk(np.arange(1000, dtype="f4"), pipeline)
        >>> table = ChunkTable.for_box(
        ...     shape=(1000,), chunk_shape=(1000,), dtype="f4", pipeline=pipeline,
        ...     offsets=np.array([0], "u8"), nbytes=np.array([len(stored)], "u8"))
        >>> buffer = np.empty(staged_bytes(table, [stored]), np.uint8)
        >>> streams = stage(table, [stored], buffer)
        >>> int(streams["decoded_bytes"].sum())
        4000
    """
    _, streams = _call(table, sources, buffer, threads, describe)
    return streams


def _call(
    table: ChunkTable,
    sources: Sequence[EncodedBuffer],
    buffer: Buffer | None,
    threads: int,
    describe: Callable[[int], str] | None,
) -> tuple[int, npt.NDArray[Any]]:
    try:
        needed, records = _native.stage(table.rows.data, sources, buffer, threads)
    except _native.DecodeFailure as failure:
        raise _error_of(failure, table, describe) from None
    return needed, np.frombuffer(records, STREAM_DTYPE)


def _error_of(
    failure: _native.DecodeFailure, table: ChunkTable, describe: Callable[[int], str] | None
) -> DataplaneError:
    expected, got, what = failure.expected, failure.got, failure.what
    if what == _NO_ROOM:
        return ConfigError(
            f"the streams need {expected} bytes, the buffer has {got}",
            hint="ask `staged_bytes` for the size",
        )
    if what == _MISALIGNED:
        return ConfigError(
            f"the buffer begins {got} bytes after a multiple of {expected}",
            hint="streams are aligned for GPUs, so their buffer must be",
        )

    def describe_row(row: int) -> str:
        return f"row {row} (chunk {int(table.rows['chunk'][row])} of its array)"

    known = len(table) > failure.row
    return failure_to_error(failure, (describe or describe_row) if known else lambda _: "stage")
