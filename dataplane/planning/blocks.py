"""Blocks of the objects that a run reads, by number.

Numbers of an object's blocks follow each other; between objects one number is left out, so that
block `n + 1` lies behind block `n` wherever there is such a block. Not thread-safe.
"""

from __future__ import annotations

import bisect

from dataplane.cache import CachedObject

__all__ = ["BlockTable"]


class BlockTable:
    """Numbers for blocks, given out as objects are met.

    Attributes:
        lengths: length of each block, bytes; 0 for numbers that are none.
        counts: number of blocks of each object.
    """

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.counts: list[int] = []
        self._firsts: list[int] = []
        self._by_name: dict[str, int] = {}

    def first_of(self, source: CachedObject) -> int:
        """Return the number of the first block of an object."""
        first = self._by_name.get(source.name)
        if first is None:
            size, block = source.info.size_bytes, source.spec.block_bytes
            first = self._by_name[source.name] = self.add(size, block)
        return first

    def add(self, size_bytes: int, block_bytes: int) -> int:
        """Give numbers to the blocks of one more object; return the first."""
        first = len(self.lengths)
        whole, rest = divmod(size_bytes, block_bytes)
        self.lengths += [block_bytes] * whole + [rest] * (rest > 0) + [0]
        self.counts.append(whole + (rest > 0))
        self._firsts.append(first)
        return first

    def object_of(self, block: int) -> int:
        """Return the number of the object of a block."""
        return bisect.bisect_right(self._firsts, block) - 1
