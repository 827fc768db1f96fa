"""Placement of inflated streams: elements go to the tensors of a batch, on the device they are on.

`place` is one kernel launch per kind of row in a batch (a batch of one element type has one). On
CUDA tensors, and on CPU tensors where Triton interprets (TRITON_INTERPRET=1), that is the kernel of
`kernels.py`; on other CPU tensors it is the NumPy twin of `reference.py`. Both write exactly the
boxes of the rows and nothing else.

The tables that a launch reads are copied to the device through `upload`, which a caller that has
pinned memory gives; they are small: COLUMNS * 8 bytes per chunk.

Thread-safe. Work is queued on the current stream; nothing waits for it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from dataplane.errors import ConfigError
from dataplane.extras import missing_package
from dataplane.gpu.elements import Normalise
from dataplane.gpu.reference import place_rows
from dataplane.gpu.tables import Group, groups_of, tiles_of

__all__ = ["is_interpreted", "place", "prepare"]

TILE_ELEMENTS: Final = 1024
"""Elements of one program on a GPU: eight for each thread of four warps."""

_INTERPRETED_TILE: Final = 1 << 15
"""The same where Python runs each program."""


def is_interpreted() -> bool:
    """Whether kernels run on CPU tensors in this process."""
    return os.environ.get("TRITON_INTERPRET", "0") not in {"", "0"}


def place(
    rows: npt.NDArray[Any],
    streams: npt.NDArray[Any],
    starts: npt.NDArray[np.int64],
    inflated: torch.Tensor,
    destinations: Sequence[torch.Tensor],
    *,
    normalise: Sequence[Normalise] | None = None,
    upload: Callable[[npt.NDArray[Any]], torch.Tensor] | None = None,
) -> None:
    """Place the elements of every row.

    Args:
        rows: CHUNK_DTYPE[n].
        streams: STREAM_DTYPE[m], as `stage` returns them for these rows.
        starts: int64[m], where in `inflated` each stream's decoded bytes begin.
        inflated: uint8[...], contiguous.
        destinations: tensors on the device of `inflated`, strided or not; two of them must not
            share elements.
        normalise: what is done to the elements of each destination; nothing by default.
        upload: function that copies an array to that device, on the current stream.

    Raises:
        ConfigError: rows, streams and destinations do not fit together.
        DecodeError: the streams of a chunk do not add up.
        MissingPackage: Triton is not installed.

    Example:
        >>> from dataplane.codecs import ChunkTable, parse_pipeline, stage, staged_bytes
        >>> table = ChunkTable.for_box(
        ...     shape=(4,), chunk_shape=(4,), dtype="u1", pipeline=parse_pipeline([], "u1"),
        ...     offsets=np.array([2**64 - 1], "u8"), nbytes=np.array([2**64 - 1], "u8"),
        ...     fill_value=7)
        >>> out = torch.zeros(4, dtype=torch.uint8)
        >>> nothing = np.empty(0, np.uint8)
        >>> streams = stage(table, [], np.empty(0, np.uint8))
        >>> place(table.rows, streams, np.empty(0, np.int64), torch.from_numpy(nothing), [out])
        >>> out.tolist()
        [7, 7, 7, 7]
    """
    for launch in prepare(
        rows, streams, starts, inflated, destinations, normalise=normalise, upload=upload
    ):
        launch()


def prepare(
    rows: npt.NDArray[Any],
    streams: npt.NDArray[Any],
    starts: npt.NDArray[np.int64],
    inflated: torch.Tensor,
    destinations: Sequence[torch.Tensor],
    *,
    normalise: Sequence[Normalise] | None = None,
    upload: Callable[[npt.NDArray[Any]], torch.Tensor] | None = None,
) -> list[Callable[[], None]]:
    """Make the tables of `place`, copy them, and return its launches without making them.

    Whoever places the same rows into the same tensors again need only launch again, on the stream
    that was current here. Arguments and errors are those of `place`.
    """
    _check(streams, starts, inflated, destinations)
    groups = groups_of(rows, streams, destinations, normalise)
    if not groups:
        return []
    if inflated.device.type == "cpu" and not is_interpreted():
        host = inflated.numpy()
        return [functools.partial(place_rows, rows, streams, starts, host, destinations, normalise)]
    send = upload or (lambda array: torch.from_numpy(array).to(inflated.device))
    device_starts = send(starts if len(starts) else np.zeros(1, np.int64))
    return [_launch(group, inflated, device_starts, send) for group in groups]


def _check(
    streams: npt.NDArray[Any],
    starts: npt.NDArray[np.int64],
    inflated: torch.Tensor,
    destinations: Sequence[torch.Tensor],
) -> None:
    if inflated.dtype != torch.uint8 or not inflated.is_contiguous():
        raise ConfigError(f"inflated streams are contiguous bytes, got {inflated.dtype}")
    if starts.shape != streams.shape or starts.dtype != np.int64:
        raise ConfigError(f"{len(streams)} streams have {starts.shape} starts of {starts.dtype}")
    if (
        len(streams)
        and (
            (starts < 0) | (starts + streams["decoded_bytes"].astype(np.int64) > inflated.numel())
        ).any()
    ):
        raise ConfigError(f"a stream leaves the {inflated.numel()} bytes that were inflated")
    for number, one in enumerate(destinations):
        if one.device != inflated.device:
            raise ConfigError(
                f"destination {number} is on {one.device}, the inflated streams on "
                f"{inflated.device}"
            )


def _launch(
    group: Group,
    inflated: torch.Tensor,
    starts: torch.Tensor,
    send: Callable[[npt.NDArray[Any]], torch.Tensor],
) -> Callable[[], None]:
    try:
        from dataplane.gpu.kernels import place_tiles
    except ImportError as err:
        raise missing_package("placing elements on a GPU", err.name or "triton") from err
    tile = _INTERPRETED_TILE if is_interpreted() else TILE_ELEMENTS
    if is_interpreted():
        largest = int(group.rows[:, 1].max())
        tile = min(tile, 1 << max(0, largest - 1).bit_length())
    tiles = tiles_of(group, tile)
    return functools.partial(
        place_tiles[len(tiles),],
        inflated,
        starts,
        send(group.rows),
        send(tiles),
        TILE=tile,
        **constants_of(group),
        enable_fp_fusion=False,  # a scale and a shift are rounded alike everywhere
    )


def constants_of(group: Group) -> dict[str, Any]:
    """Return what the kernel of a group is compiled for, but for the size of its tiles."""
    import triton.language as tl

    words = {1: tl.uint8, 2: tl.uint16, 4: tl.uint32, 8: tl.uint64, 16: tl.uint64}
    kinds = {
        "b1": tl.uint8,
        **{f"u{size}": words[size] for size in (1, 2, 4, 8)},
        **{"i1": tl.int8, "i2": tl.int16, "i4": tl.int32, "i8": tl.int64},
        **{"f2": tl.float16, "bf2": tl.bfloat16, "f4": tl.float32, "f8": tl.float64},
    }
    rule = group.rule
    return {
        "NDIM": group.ndim,
        "ITEMSIZE": group.itemsize,
        "SHUFFLE": group.shuffle,
        "SWAP": group.swap,
        "FILL": group.is_fill,
        "SPLIT": group.is_split,
        "EVEN": group.is_even,
        "COPY": rule.is_copy,
        "SCALED": rule.scaled,
        "BFLOAT": rule.stored == "bf2",
        "WORD": words[group.itemsize],
        "STORED": kinds.get(rule.stored, tl.uint64),
        "COMPUTED": tl.float64 if rule.computes_in_float64 else tl.float32,
        "PLACED": kinds.get(rule.placed, tl.uint64),
        "TO_BFLOAT": rule.placed == "bf2",
    }
