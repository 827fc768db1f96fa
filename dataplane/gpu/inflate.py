"""Inflation of a batch's staged streams into one buffer, on the device that they are on.

An `Inflater` takes the staged bytes, on its device, with their records, and gives where each stream
was inflated to. On the CPU that is the native decoder (`HostInflater`), on a GPU nvCOMP
(`nvcomp.py`), or for LZ4 DALI (`inflate_dali.py`). Work on a GPU is only queued; whether streams
were sound is known when it is done, and `Inflation.check` says so then.

LZ4 goes through nvCOMP as zstd does, unless it is told otherwise: DALI's operator is built on the
same library, but tells nothing of streams that are damaged, and leaves its output in memory of its
own, from where it must be copied.

Pure functions and values; an inflater belongs to one thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch

from dataplane.buffers import shared_pool
from dataplane.codecs import CHUNK_DTYPE, ChunkTable, Codec, decode
from dataplane.errors import DecodeError
from dataplane.gpu.ring import Slot

__all__ = ["HostInflater", "Inflater", "Inflation", "laid_out", "raise_for_stream"]

DECODED_ALIGN: Final = 16
"""Streams are inflated to multiples of this many bytes: what every decompressor is content with."""

_LENGTH_BYTES: Final = 4
"""Length in front of an LZ4 block, as the native decoder has it."""


@dataclass(frozen=True, slots=True, eq=False)
class Inflation:
    """What streams were, or will be, inflated to.

    Attributes:
        memory: uint8[...] on the device.
        starts: int64[streams], where each begins in it.
        check: function to call when the work is done; it raises DecodeError if a stream was
            damaged.
    """

    memory: torch.Tensor
    starts: npt.NDArray[np.int64]
    check: Callable[[], None]


class Inflater(Protocol):
    """Inflates the streams of a batch."""

    def inflate(
        self,
        staged: torch.Tensor,
        streams: npt.NDArray[Any],
        slot: Slot,
        describe: Callable[[int], str],
    ) -> Inflation:
        """Queue the inflation of all streams, on the current stream of the device.

        Args:
            staged: uint8[...] on the device, as `stage` filled it.
            streams: STREAM_DTYPE[n].
            slot: slot for what has to go to the device and back.
            describe: text for a row in error messages.
        """
        ...


def laid_out(
    sizes: npt.NDArray[np.int64], *, align: int = DECODED_ALIGN
) -> tuple[npt.NDArray[np.int64], int]:
    """Lay pieces one behind the other, each from a multiple of `align` on.

    Returns:
        int64[n], where each begins, and the size of the whole.

    Example:
        >>> laid_out(np.array([5, 16, 1]))
        (array([ 0, 16, 32]), 48)
    """
    padded = -(-sizes // align) * align
    ends = np.cumsum(padded)
    return ends - padded, int(ends[-1]) if len(ends) else 0


def raise_for_stream(
    streams: npt.NDArray[Any], number: int, describe: Callable[[int], str], what: str
) -> None:
    """Raise the error of a damaged stream."""
    stream = streams[number]
    raise DecodeError(
        f"{describe(int(stream['row']))}: {Codec(stream['codec']).name} stream of "
        f"{int(stream['nbytes'])} bytes at {int(stream['decoded_start'])} of its chunk {what}",
        hint="the chunk is damaged where it is stored, or in the cache",
    )


class HostInflater:
    """Inflates on the CPU, with the native decoder.

    Args:
        threads: most threads that decompress.
    """

    def __init__(self, *, threads: int = 1) -> None:
        self._threads = threads

    def inflate(
        self,
        staged: torch.Tensor,
        streams: npt.NDArray[Any],
        slot: Slot,
        describe: Callable[[int], str],
    ) -> Inflation:
        """As `Inflater.inflate`, but it is done on return.

        Raises:
            DecodeError: a stream is damaged.
        """
        del slot
        sizes = streams["decoded_bytes"].astype(np.int64)
        starts, total = laid_out(sizes)
        memory = shared_pool().array((total,), np.dtype(np.uint8))
        source = staged.numpy()
        rows = np.zeros(len(streams), CHUNK_DTYPE)
        rows["codec"] = streams["codec"]
        rows["source_offset"] = streams["offset"]
        rows["source_nbytes"] = streams["nbytes"]
        rows["chunk"] = np.arange(len(streams))
        rows["ndim"] = rows["itemsize"] = 1
        rows["chunk_shape"][:, 0] = rows["extent"][:, 0] = sizes
        rows["destination_start"][:, 0] = starts
        is_lz4 = np.flatnonzero(streams["codec"] == Codec.LZ4)
        framed = _framed(source, streams[is_lz4])
        rows["source"][is_lz4] = 1
        rows["source_nbytes"][is_lz4] += np.uint64(_LENGTH_BYTES)
        rows["source_offset"][is_lz4] = (
            np.cumsum(rows["source_nbytes"][is_lz4]) - rows["source_nbytes"][is_lz4]
        )
        decode(
            ChunkTable(rows),
            [source.data, framed.data],
            [memory],
            threads=self._threads,
            describe=lambda row: (
                describe(int(streams["row"][row])) if row < len(rows) else "inflate"
            ),
        )
        return Inflation(torch.from_numpy(memory), starts, lambda: None)


def _framed(source: npt.NDArray[np.uint8], streams: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return LZ4 streams, each behind the length that it inflates to."""
    sizes = streams["nbytes"].astype(np.int64) + _LENGTH_BYTES
    starts, total = laid_out(sizes, align=1)
    result = np.empty(total, np.uint8)
    lengths = streams["decoded_bytes"].astype("<u4").view(np.uint8).reshape(-1, _LENGTH_BYTES)
    for number, (start, size) in enumerate(zip(starts.tolist(), sizes.tolist(), strict=True)):
        offset = int(streams["offset"][number])
        result[start : start + _LENGTH_BYTES] = lengths[number]
        result[start + _LENGTH_BYTES : start + size] = source[offset : offset + size - 4]
    return result
