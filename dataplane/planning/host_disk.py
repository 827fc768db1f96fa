"""The cache of a host in simulated time: which blocks are on its disk, and which find room.

The policy is that of `cache.eviction`: a planned block has room while the budget has; then what is
not of the working set goes, the least recently used first (the index of the dataset is all that is
foreign here), and blocks of the working set that were not used in the last `PASSES` passes. When
there is nothing to evict, the block is handed to its reader and not kept.

Not thread-safe; belongs to one simulation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from dataplane.cache.admin import (
    MAX_SLACK_BYTES,
    PASSES,
    SLACK_SHARE,
    map_disk_bytes,
    page_rounded,
)
from dataplane.planning.blocks import BlockTable

__all__ = ["HostDisk"]

_FULL_S = 1.0  # as `cache.eviction.working_set`


class HostDisk:
    """The disk of one host.

    Args:
        table: all blocks.
        limit_bytes: budget of the cache; None for no limit.
        foreign: length of each block that is there already and of no working set.
        is_pinned: whether a plan is about to read a block.
    """

    def __init__(
        self,
        table: BlockTable,
        limit_bytes: int | None,
        foreign: Sequence[int],
        is_pinned: Callable[[int], bool],
    ) -> None:
        self._table = table
        self._limit = limit_bytes
        self._is_pinned = is_pinned
        self._foreign = deque(page_rounded(length) for length in foreign)
        self.used_bytes = sum(self._foreign) + (map_disk_bytes(len(foreign)) if foreign else 0)
        self._last_s: dict[int, float] = {}  # resident blocks, and when each was used last
        self._reserved: set[int] = set()
        self._opened: set[int] = set()
        self._starts: deque[float] = deque(maxlen=PASSES)
        self._old: deque[int] | None = None  # not used in the last passes, oldest first
        self._full_until_s = -1.0
        self.evicted_bytes = 0
        self.refused_blocks = 0

    def __contains__(self, block: int) -> bool:
        return block in self._last_s

    @property
    def resident_bytes(self) -> int:
        """Bytes of the blocks of the dataset that are there."""
        return sum(self._table.lengths[block] for block in self._last_s)

    def begin_pass(self, now_s: float) -> None:
        """Say that a plan begins to read the dataset once more."""
        self._starts.append(now_s)
        self._old = None

    def is_full(self, now_s: float) -> bool:
        """Whether there was no room for a block just now."""
        return now_s < self._full_until_s

    def use(self, blocks: Sequence[int], now_s: float) -> None:
        """Say that blocks were read."""
        last = self._last_s
        for block in blocks:
            if block in last:
                last[block] = now_s

    def reserve(self, block: int, now_s: float) -> bool:
        """Take room for a block, evicting others if need be; say whether there is any."""
        self._open(block)
        wanted = page_rounded(self._table.lengths[block])
        if self._limit is None or self.used_bytes + wanted <= self._limit:
            self.used_bytes += wanted
            return True
        if not self.is_full(now_s):
            slack = min(self._limit // SLACK_SHARE, MAX_SLACK_BYTES)
            self._evict(self.used_bytes + wanted - self._limit + slack)
            if self.used_bytes + wanted <= self._limit:
                self.used_bytes += wanted
                return True
            self._full_until_s = now_s + _FULL_S
        self.refused_blocks += 1
        return False

    def commit(self, block: int, now_s: float) -> None:
        """Say that a block, which has room, was written."""
        self._last_s[block] = now_s

    def _open(self, block: int) -> None:
        """Count the map of an entry when it is first used."""
        number = self._table.object_of(block)
        if number not in self._opened:
            self._opened.add(number)
            self.used_bytes += map_disk_bytes(self._table.counts[number])

    def _evict(self, goal: int) -> None:
        freed = 0
        while self._foreign and freed < goal:
            freed += self._foreign.popleft()
        old, pinned = self._old_blocks(), []
        while old and freed < goal:
            block = old.popleft()
            if self._last_s.get(block, self._starts[0]) >= self._starts[0]:
                continue  # used since, or gone
            if self._is_pinned(block):
                pinned.append(block)
                continue
            del self._last_s[block]
            length = page_rounded(self._table.lengths[block])
            self.evicted_bytes += length
            freed += length
        old.extendleft(reversed(pinned))
        self.used_bytes -= freed

    def _old_blocks(self) -> deque[int]:
        if self._old is None:
            first_s = self._starts[0] if len(self._starts) == PASSES else -1.0
            found = [(used_s, block) for block, used_s in self._last_s.items() if used_s < first_s]
            self._old = deque(block for _, block in sorted(found))
        return self._old
