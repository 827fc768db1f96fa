"""One native call that decodes every row of a chunk table.

The native module holds the buffers for the length of the call, drops the GIL, and writes only
inside the boxes of the table. It keeps worker threads of its own, made at first use and made
again in a forked child. Thread-safe; calls from several threads share the workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from dataplane import _native
from dataplane.codecs.errors import failure_to_error
from dataplane.codecs.table import ChunkTable
from dataplane.stores import Buffer
from dataplane.telemetry import logger

__all__ = ["CancelFlag", "EncodedBuffer", "NativeInfo", "codec_alone", "decode", "native_info"]

CancelFlag = _native.CancelFlag

EncodedBuffer: TypeAlias = Buffer | _native.MappedRange
"""Memory that encoded bytes lie in; part of a cache file is leased for the length of a call."""


@dataclass(frozen=True, slots=True)
class NativeInfo:
    """Build of the native module, and what it uses on this machine.

    Attributes:
        build_type: `Release` or `RelWithDebInfo` when optimised.
        sanitizers: such as `address,undefined`; empty in a build that is meant to be fast.
        simd: `avx512`, `avx2`, `neon` or `scalar`.
        zstd_version: version of the library that decodes.
        lz4_version: version of the library that decodes.
    """

    build_type: str
    sanitizers: str
    simd: str
    zstd_version: str
    lz4_version: str

    @property
    def optimised(self) -> bool:
        """Whether speeds measured with this build mean anything."""
        return self.build_type in {"Release", "RelWithDebInfo"} and not self.sanitizers


def native_info() -> NativeInfo:
    """Return how the native module was built.

    Example:
        >>> native_info().simd in {"avx512", "avx2", "neon", "scalar"}
        True
    """
    return NativeInfo(
        build_type=_native.build_type,
        sanitizers=_native.sanitizers,
        simd=_native.simd,
        zstd_version=_native.zstd_version,
        lz4_version=_native.lz4_version,
    )


def decode(
    table: ChunkTable,
    sources: Sequence[EncodedBuffer],
    destinations: Sequence[object],
    *,
    threads: int = 1,
    cancel: CancelFlag | None = None,
    describe: Callable[[int], str] | None = None,
) -> None:
    """Decode every row of `table` from `sources` into `destinations`.

    Args:
        table: the chunks, and where each goes.
        sources: contiguous buffers of encoded bytes.
        destinations: writable CPU arrays (NumPy, torch, anything with DLPack or the buffer
            protocol), contiguous or strided, pinned or not. Two of them must not share elements.
        threads: most threads that decode, the calling one included; 1 stays in it.
        cancel: flag that another thread sets to stop the call.
        describe: text for a row in error messages: which sample, array and chunk it is.

    Raises:
        Truncated: a chunk, or the buffer that should hold it, ends early.
        ChecksumMismatch: a chunk's bytes do not match their checksum.
        TooLarge: a chunk holds more than its place.
        DecodeError: a chunk contradicts itself, or the call was cancelled.
        KeyboardInterrupt: or what else a signal handler raised meanwhile, in the main thread.
        FormatError: a chunk uses a codec that this build does not know.
        ConfigError: the table does not fit the destinations, or two rows overlap; nothing was
            written.

    A bad chunk does not spoil the others: all other rows are decoded, and the error is that of
    the first bad row, however many threads were at work. The box of a bad row holds unspecified
    elements; after an interruption that may be true of any box. Nothing outside the boxes is ever
    written.

    Ctrl-C and `cancel` are seen between chunks, between the blocks of a Blosc chunk and within a
    zstd chunk of more than 32 MiB: in tens of milliseconds. A smaller zstd chunk, an LZ4 chunk
    that is no Blosc and the copy of a raw chunk are not interrupted: the call then lasts until
    they are done, which for 300 MB of LZ4 is 100 ms at 3 GB/s.

    Large results are written past the processor's cache, since they would not stay in it. That is
    fastest when the rows of a destination begin at multiples of 64 bytes.

    Example:
        >>> import numpy as np
        >>> from dataplane.codecs import encode_chunk, parse_pipeline
        >>> pipeline = parse_pipeline([{"name": "blosc", "configuration": {"cname": "lz4"}}], "f4")
        >>> stored = encode_chunk(np.arange(4, dtype="f4"), pipeline)
        >>> table = ChunkTable.for_box(
        ...     shape=(4,), chunk_shape=(4,), dtype="f4", pipeline=pipeline,
        ...     offsets=np.array([0], "u8"), nbytes=np.array([len(stored)], "u8"))
        >>> out = np.empty(4, "f4")
        >>> decode(table, [stored], [out])
        >>> out.tolist()
        [0.0, 1.0, 2.0, 3.0]
    """
    try:
        _native.decode(table.rows.data, sources, destinations, threads, cancel)
    except _native.DecodeFailure as failure:
        raise failure_to_error(failure, describe or _describe_row(table)) from None


def codec_alone(table: ChunkTable, sources: Sequence[EncodedBuffer], *, threads: int = 1) -> None:
    """Decompress every row of `table` into scratch memory and drop it, for benchmarks.

    This is the ceiling that `decode` is measured against: the same streams through the same codec
    on as many threads, but no checksum, un-shuffling or placement. Streams that are stored rather
    than compressed cost nothing.

    Raises:
        DecodeError: as `decode`.
    """
    try:
        _native.inflate_only(table.rows.data, sources, threads)
    except _native.DecodeFailure as failure:
        raise failure_to_error(failure, _describe_row(table)) from None


def _describe_row(table: ChunkTable) -> Callable[[int], str]:
    def describe(row: int) -> str:
        if row >= len(table):
            return "decode"
        return f"row {row} (chunk {int(table.rows['chunk'][row])} of its array)"

    return describe


if not native_info().optimised:
    logger.warning(
        "the native module is a %s build%s: decoding is slow; rebuild it with `make native`",
        _native.build_type,
        f" with sanitizers ({_native.sanitizers})" if _native.sanitizers else "",
    )
