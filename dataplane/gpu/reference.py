"""Placement with NumPy: the twin of the kernel, row by row, for CPU tensors.

What tests compare the kernel with, and what places elements where there is neither a GPU nor
Triton's interpreter. It works from the rows and the stream records, not from the tables that the
kernel reads, so that a mistake in those shows. Slow: every chunk is copied several times and every
row runs Python. Thread-safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from dataplane.codecs import Codec
from dataplane.codecs.table import Convert
from dataplane.gpu.elements import PLAIN, Normalise, rule_of

__all__ = ["place_rows"]

_BYTES: Final = 1
_BITS: Final = 2


def place_rows(  # noqa: PLR0917 - those of `place`, in its order
    rows: npt.NDArray[Any],
    streams: npt.NDArray[Any],
    starts: npt.NDArray[np.int64],
    inflated: npt.NDArray[np.uint8],
    destinations: Sequence[torch.Tensor],
    normalise: Sequence[Normalise] | None = None,
) -> None:
    """Place every row; arguments as those of `placement.place`, which has checked them."""
    first = np.searchsorted(streams["row"], np.arange(len(rows) + 1))
    for number, row in enumerate(rows):
        place = int(row["destination"])
        destination = destinations[place]
        asked = PLAIN if normalise is None else normalise[place]
        ndim = int(row["ndim"])
        extent = row["extent"][:ndim].astype(np.intp).tolist()
        begin = row["destination_start"][:ndim].astype(np.intp).tolist()
        box = tuple(slice(b, b + n) for b, n in zip(begin, extent, strict=True))
        target = destination[box] if ndim else destination
        convert = Convert(row["convert"])
        if row["codec"] == Codec.FILL:
            kind = (
                "f4"
                if convert is not Convert.NONE
                else rule_of(convert, destination.dtype, asked).stored
            )
            size = 2 if kind == "bf2" else int(kind[1:])
            raw = np.broadcast_to(row["fill"][:size], (*extent, size))
        else:
            kind = rule_of(convert, destination.dtype, asked).stored
            mine = slice(first[number], first[number + 1])
            raw = _box_of(row, _chunk(streams[mine], starts[mine], inflated))
        elements = _numbers(np.ascontiguousarray(raw), kind)
        target.copy_(_placed(elements, destination.dtype, kind, asked))


def _chunk(
    streams: npt.NDArray[Any], starts: npt.NDArray[np.int64], inflated: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """Return the bytes of a chunk, un-shuffled, from what its streams inflated to."""
    parts = [
        inflated[int(start) : int(start) + int(size)]
        for start, size in zip(starts, streams["decoded_bytes"], strict=True)
    ]
    chunk: npt.NDArray[np.uint8] = np.concatenate(parts)
    block_bytes = int(streams["block_bytes"][0])
    seen = set()
    for stream in streams:
        begin = int(stream["decoded_start"]) // block_bytes * block_bytes
        if begin in seen or not stream["shuffle"]:
            continue
        seen.add(begin)
        typesize = int(stream["typesize"])
        count = int(stream["block_bytes"]) // typesize
        planes = chunk[begin : begin + count * typesize].copy()
        if stream["shuffle"] == _BYTES:
            plain = planes.reshape(typesize, count).T
        else:
            bits = np.unpackbits(planes, bitorder="little").reshape(typesize, 8, count)
            plain = np.packbits(bits.transpose(2, 0, 1), axis=2, bitorder="little")
        chunk[begin : begin + count * typesize] = plain.reshape(-1)
    return chunk


def _box_of(row: Any, chunk: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the wanted box, uint8[..., itemsize], with bytes in this machine's order."""
    ndim, size, swap = int(row["ndim"]), int(row["itemsize"]), int(row["swap_bytes"])
    shape = row["chunk_shape"][:ndim].astype(np.intp).tolist()
    begin = row["chunk_start"][:ndim].astype(np.intp).tolist()
    extent = row["extent"][:ndim].astype(np.intp).tolist()
    wanted = tuple(slice(b, b + n) for b, n in zip(begin, extent, strict=True))
    box = chunk.reshape(*shape, size)[wanted]
    if swap:
        box = box.reshape(*extent, size // swap, swap)[..., ::-1].reshape(*extent, size)
    return box


def _numbers(raw: npt.NDArray[np.uint8], kind: str) -> npt.NDArray[Any]:
    """Return uint8[..., itemsize] as numbers of a kind; bfloat16 becomes float32."""
    if kind == "bf2":
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)[..., 0]
    return raw.view(np.dtype("?" if kind == "b1" else kind))[..., 0]


def _placed(
    elements: npt.NDArray[Any], dtype: torch.dtype, kind: str, asked: Normalise
) -> torch.Tensor:
    """Return what is placed: the same elements, or cast and scaled ones."""
    is_scaled = (asked.scale, asked.shift) != (1.0, 0.0)
    own = torch.from_numpy(np.array(elements))
    if not is_scaled and (kind == "bf2" or own.dtype == dtype):
        return own.to(dtype)
    wide = dtype == torch.float64 or kind == "f8"
    computed: npt.NDArray[Any] = elements.astype(np.float64 if wide else np.float32)
    if is_scaled:
        scale, shift = np.array([asked.scale, asked.shift], computed.dtype)
        computed = computed * scale + shift
    return torch.from_numpy(np.asarray(computed)).to(dtype)
