"""Zero-copy views: the ranges of an object that need no copy, as a block in memory has them whole.

A block that was just downloaded lies in pooled memory. A range that lies within it need not be
copied; one that crosses into the next block must be, and so must ranges that are only a small part
of their block: a view keeps the whole block from its pool, and memory would fill with bytes that
no range asked for. What must be copied is merged where it lies together and read in one call.

Pure functions over NumPy arrays; `CachedObject.views` is their user.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataplane.cache.read.ranges import Ranges, merge_ranges
from dataplane.stores.base import Buffer

__all__ = ["ViewLayout", "Views", "blocks_to_show", "lay_out"]

_MIN_SHARE = 0.5
"""Share of a block that ranges must ask for, to view it: views keep at most twice their bytes."""

_MERGE_GAP_BYTES = 4096
"""Ranges this close are copied together: chunks begin on pages."""


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """Ranges of an object, each in one piece in read-only memory, kept alive by reference.

    Attributes:
        sources: the memory; the first may be empty.
        source: uint32[n], index of the one that a range lies in.
        offset: uint64[n], first byte of the range in it.
    """

    sources: tuple[Buffer, ...]
    source: npt.NDArray[np.uint32]
    offset: npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class ViewLayout:
    """Layout of views: in the memory of blocks, or in a buffer of their own (source 0).

    Attributes:
        blocks: blocks with zero-copy views, in order; sources 1, 2, …
        copied: ranges to read into the buffer, one after another.
        copied_bytes: length of that buffer.
        shown_bytes: bytes of the zero-copy ranges, by block.
        source: as in `Views`.
        offset: as in `Views`.
    """

    blocks: tuple[int, ...]
    copied: Ranges
    copied_bytes: int
    shown_bytes: tuple[int, ...]
    source: npt.NDArray[np.uint32]
    offset: npt.NDArray[np.uint64]


def blocks_to_show(
    starts: npt.NDArray[np.uint64],
    stops: npt.NDArray[np.uint64],
    block_bytes: int,
    size_bytes: int,
) -> list[int]:
    """Return the blocks of which the ranges within them ask for enough, in order."""
    block = starts // block_bytes
    within = (stops > starts) & (stops <= (block + 1) * block_bytes)
    blocks, of_range = np.unique(block[within], return_inverse=True)
    asked = np.bincount(of_range, (stops - starts)[within], len(blocks))
    lengths = np.minimum(size_bytes - blocks * block_bytes, block_bytes)
    chosen: list[int] = blocks[asked >= _MIN_SHARE * lengths].tolist()
    return chosen


def lay_out(
    starts: npt.NDArray[np.uint64],
    stops: npt.NDArray[np.uint64],
    block_bytes: int,
    in_memory: Collection[int],
) -> ViewLayout:
    """Lay out views: of ranges within one of the blocks `in_memory`, and copies of the others."""
    blocks = np.array(sorted(in_memory), np.uint64)
    source = np.zeros(len(starts), np.uint32)
    offset = np.zeros(len(starts), np.uint64)
    shown_bytes: list[int] = []
    if len(blocks):
        block = starts // block_bytes
        number = np.minimum(np.searchsorted(blocks, block), len(blocks) - 1)
        shown = (blocks[number] == block) & (stops <= (block + 1) * block_bytes)
        source[shown] = number[shown] + 1
        offset[shown] = (starts - block * block_bytes)[shown]
        lengths = (stops - starts)[shown]
        shown_bytes = np.bincount(number[shown], lengths, len(blocks)).astype(int).tolist()
    rest = source == 0
    copied = merge_ranges(starts[rest], stops[rest], _MERGE_GAP_BYTES)
    copied_bytes = int((copied[:, 1] - copied[:, 0]).sum())
    if len(copied):
        span = np.searchsorted(copied[:, 0], starts[rest], side="right") - 1
        offset[rest] = starts[rest] - copied[span, 0] + copied[span, 2]
    shown_blocks = tuple(blocks.tolist())
    return ViewLayout(shown_blocks, copied, copied_bytes, tuple(shown_bytes), source, offset)
