"""Scatter lists: tables of byte ranges of an object and their places in a buffer.

A table is uint64[n, 3], C-contiguous: bytes `[start, stop)` of the object go to the buffer from
byte `place` on. It is what `native/core/cache/gather.hpp` takes and what it returns for the pieces
that are not there, so that reading thousands of ranges needs no Python object for each. Ranges may
be empty and may overlap.

Pure functions over NumPy arrays; none copies bytes of an object.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from dataplane.errors import ConfigError
from dataplane.stores.base import Buffer

__all__ = [
    "ROUND_TRIP_BYTES",
    "Ranges",
    "as_ranges",
    "by_block",
    "check_ranges",
    "check_within",
    "merge_ranges",
    "pack_ranges",
    "touching",
]

Ranges: TypeAlias = npt.NDArray[np.uint64]
"""uint64[n, 3]: start, stop, place."""

ROUND_TRIP_BYTES = 128 << 10
"""Ranges this close are one request: less than a round trip costs on any object store."""

_COLUMNS = 3


def as_ranges(table: Buffer | npt.ArrayLike) -> Ranges:
    """Return a table of ranges, from one, from rows of numbers, or from the native module's bytes.

    Raises:
        ConfigError: it is no table of three columns of numbers that are at least 0.
    """
    if isinstance(table, bytes):
        return np.frombuffer(table, np.uint64).reshape(-1, _COLUMNS)
    rows = np.asarray(table)
    if rows.size == 0:
        return np.empty((0, _COLUMNS), np.uint64)
    if rows.ndim != 2 or rows.shape[1] != _COLUMNS or rows.dtype.kind not in "iu":
        raise ConfigError(
            f"a table of ranges needs rows of (start, stop, place), got {rows.dtype}{rows.shape}"
        )
    if rows.dtype.kind == "i" and rows.min() < 0:
        bad = rows[(rows < 0).any(axis=1)][0]
        raise ConfigError(f"a range cannot have negative numbers, got {bad.tolist()}")
    return np.ascontiguousarray(rows, np.uint64)


def pack_ranges(spans: Sequence[tuple[int, int]] | npt.NDArray[np.uint64]) -> Ranges:
    """Return the table that puts half-open ranges one after another.

    Example:
        >>> pack_ranges([(10, 14), (90, 93)]).tolist()
        [[10, 14, 0], [90, 93, 4]]
    """
    table: Ranges = np.empty((len(spans), _COLUMNS), np.uint64)
    if len(spans):
        table[:, :2] = spans
        lengths = table[:, 1] - table[:, 0]
        table[:, 2] = np.cumsum(lengths) - lengths
    return table


def check_ranges(table: Ranges, size_bytes: int, buffer_bytes: int, what: str) -> tuple[int, int]:
    """Check a table against the object and the buffer.

    Returns:
        How many ranges are not empty, and their bytes together.

    Raises:
        ConfigError: a range is outside the object, or has no room in the buffer.
    """
    if not len(table):
        return 0, 0
    starts, stops, places = table.T
    lengths = stops - starts
    # Almost always all is well, which takes few steps to say. A place beyond the buffer, and a
    # range that ends before it begins, are told apart first: sums and differences could wrap.
    if (
        (starts <= stops).all()
        and int(stops.max()) <= size_bytes
        and int(places.max()) <= buffer_bytes
        and int((places + lengths).max()) <= buffer_bytes
    ):
        return int(np.count_nonzero(lengths)), int(lengths.sum())
    check_within(starts, stops, size_bytes, what)
    # A place beyond the buffer must not wrap around.
    crowded = (places > buffer_bytes) | (lengths > buffer_bytes - np.minimum(places, buffer_bytes))
    if crowded.any():
        start, stop, place = table[int(crowded.argmax())].tolist()
        raise ConfigError(
            f"bytes {start} to {stop} of {what} do not fit into a buffer of {buffer_bytes} bytes "
            f"from byte {place} on"
        )
    return int(np.count_nonzero(lengths)), int(lengths.sum())


def check_within(
    starts: npt.NDArray[np.uint64], stops: npt.NDArray[np.uint64], size_bytes: int, what: str
) -> None:
    """Check that ranges lie within an object.

    Raises:
        ConfigError: one does not.
    """
    outside = (starts > stops) | (stops > size_bytes)
    if outside.any():
        bad = int(outside.argmax())
        raise ConfigError(
            f"bytes {starts[bad]} to {stops[bad]} are outside {what}, which has {size_bytes} bytes"
        )


def merge_ranges(
    starts: npt.NDArray[np.uint64], stops: npt.NDArray[np.uint64], gap_bytes: int
) -> Ranges:
    """Merge ranges that overlap or lie less than `gap_bytes` apart, and pack the result.

    Returns:
        The merged ranges in order, one after another; each given range lies within one of them.

    Example:
        >>> starts, stops = np.array([40, 0, 12], np.uint64), np.array([50, 10, 20], np.uint64)
        >>> merge_ranges(starts, stops, 4).tolist()
        [[0, 20, 0], [40, 50, 20]]
    """
    order = np.argsort(starts, kind="stable")
    ordered = starts[order]
    reach = np.maximum.accumulate(stops[order])
    is_break = ordered[1:] > reach[:-1] + np.uint64(gap_bytes)
    spans = np.empty((int(is_break.sum()) + (1 if len(order) else 0), 2), np.uint64)
    spans[:, 0] = ordered[np.concatenate(([True], is_break))[: len(order)]]
    spans[:, 1] = reach[np.concatenate((is_break, [True]))[: len(order)]]
    return pack_ranges(spans)


def by_block(table: Ranges, block_bytes: int) -> Iterator[tuple[int, Ranges]]:
    """Cut ranges where blocks begin; yield each block, in order, with its pieces."""
    table = table[table[:, 1] > table[:, 0]]
    if not len(table):
        return
    starts, stops, places = table.T
    first = starts // block_bytes
    counts = (stops - 1) // block_bytes - first + 1
    row = np.repeat(np.arange(len(table)), counts.astype(np.intp))
    ends = np.cumsum(counts)
    block = first[row] + np.arange(len(row), dtype=np.uint64) - (ends - counts)[row]
    pieces = np.empty((len(row), _COLUMNS), np.uint64)
    pieces[:, 0] = np.maximum(starts[row], block * block_bytes)
    pieces[:, 1] = np.minimum(stops[row], (block + 1) * block_bytes)
    pieces[:, 2] = places[row] + (pieces[:, 0] - starts[row])
    order = np.argsort(block, kind="stable")
    pieces, block = pieces[order], block[order]
    blocks, firsts = np.unique(block, return_index=True)
    yield from zip(blocks.tolist(), np.split(pieces, firsts[1:]), strict=True)


def touching(table: Ranges, blocks: Sequence[int], block_bytes: int) -> Ranges:
    """Return the ranges that have a byte in one of `blocks`, which are in order."""
    table = table[table[:, 1] > table[:, 0]]
    wanted = np.asarray(blocks, np.uint64)
    below = np.searchsorted(wanted, table[:, 0] // block_bytes)
    upto = np.searchsorted(wanted, (table[:, 1] - 1) // block_bytes, side="right")
    touched: Ranges = table[upto > below]
    return touched
