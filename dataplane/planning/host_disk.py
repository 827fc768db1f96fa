"""The cache of a host in simulated time: which blocks are on its disk, and which find room.

The policy is that of `cache.eviction`: a planned block has room while the budget has; then what is
not of the working set goes, the least recently used first (the index of the dataset is all that is
foreign here), and blocks of the working set that were not used in the last `PASSES` passes. Where
samples go to the node that owns them, blocks that the asking rank has read for other nodes' samples
alone, its guests, make room for those that are owned. When there is nothing to evict, the block is
handed to its reader and not kept.

Not thread-safe; belongs to one simulation.
"""

from __future__ import annotations

import heapq
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


class _WorkingSet:
    """What one rank knows of the dataset: when its passes began, and its guests."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.starts: deque[float] = deque(maxlen=PASSES)
        self.old: deque[int] | None = None  # not used in the last passes, oldest first
        self.full_until_s = self.full_for_guests_until_s = -1.0
        self.is_guest: dict[int, bool] = {}
        self.guests: list[tuple[float, int]] = []  # heap: last use, as far as is known, and block


class HostDisk:
    """The disk of one host.

    Args:
        table: all blocks.
        limit_bytes: budget of the cache; None for no limit.
        foreign: length of each block that is there already and of no working set.
        is_pinned: whether the plan of a rank is about to read a block.
        ranks: number of ranks that use it.
    """

    def __init__(
        self,
        table: BlockTable,
        limit_bytes: int | None,
        foreign: Sequence[int],
        is_pinned: Callable[[int, int], bool],
        *,
        ranks: int = 1,
    ) -> None:
        self._table = table
        self._limit = limit_bytes
        self._is_pinned = is_pinned
        self._foreign = deque(page_rounded(length) for length in foreign)
        self.used_bytes = sum(self._foreign) + (map_disk_bytes(len(foreign)) if foreign else 0)
        self._last_s: dict[int, float] = {}  # resident blocks, and when each was used last
        self._opened: set[int] = set()
        self._sets = [_WorkingSet(rank) for rank in range(ranks)]
        self.evicted_bytes = 0
        self.refused_blocks = 0

    def __contains__(self, block: int) -> bool:
        return block in self._last_s

    @property
    def resident_bytes(self) -> int:
        """Bytes of the blocks of the dataset that are there."""
        return sum(self._table.lengths[block] for block in self._last_s)

    def begin_pass(self, now_s: float, rank: int = 0) -> None:
        """Say that the plan of a rank begins to read the dataset once more."""
        self._sets[rank].starts.append(now_s)
        self._sets[rank].old = None

    def note_kind(self, block: int, rank: int, *, is_guest: bool) -> None:
        """Say whether a rank reads a block for other nodes' samples; once owned, always owned."""
        of_rank = self._sets[rank]
        known = of_rank.is_guest.get(block)
        of_rank.is_guest[block] = is_guest and known is not False
        if known is None and is_guest and block in self._last_s:
            heapq.heappush(of_rank.guests, (self._last_s[block], block))

    def is_full(self, now_s: float, rank: int = 0) -> bool:
        """Whether there was no room for some block of a rank just now."""
        return now_s < self._sets[rank].full_for_guests_until_s

    def use(self, blocks: Sequence[int], now_s: float) -> None:
        """Say that blocks were read."""
        last = self._last_s
        for block in blocks:
            if block in last:
                last[block] = now_s

    def reserve(self, block: int, now_s: float, rank: int = 0) -> bool:
        """Take room for a block of a rank, evicting others if need be; say whether there is any."""
        self._open(block)
        wanted = page_rounded(self._table.lengths[block])
        if self._limit is None or self.used_bytes + wanted <= self._limit:
            self.used_bytes += wanted
            return True
        of_rank = self._sets[rank]
        is_guest = of_rank.is_guest.get(block, False)
        full_until_s = of_rank.full_for_guests_until_s if is_guest else of_rank.full_until_s
        if now_s >= full_until_s:
            slack = min(self._limit // SLACK_SHARE, MAX_SLACK_BYTES)
            goal = self.used_bytes + wanted - self._limit + slack
            self._evict(goal, of_rank, keeps_guests=is_guest)
            if self.used_bytes + wanted <= self._limit:
                self.used_bytes += wanted
                return True
            of_rank.full_for_guests_until_s = now_s + _FULL_S
            if not is_guest:
                of_rank.full_until_s = now_s + _FULL_S
        self.refused_blocks += 1
        return False

    def commit(self, block: int, now_s: float) -> None:
        """Say that a block, which has room, was written."""
        self._last_s[block] = now_s
        for of_rank in self._sets:
            if of_rank.is_guest.get(block, False):
                heapq.heappush(of_rank.guests, (now_s, block))

    def _open(self, block: int) -> None:
        """Count the map of an entry when it is first used."""
        number = self._table.object_of(block)
        if number not in self._opened:
            self._opened.add(number)
            self.used_bytes += map_disk_bytes(self._table.counts[number])

    def _evict(self, goal: int, of_rank: _WorkingSet, *, keeps_guests: bool) -> None:
        until = self.used_bytes - goal
        while self._foreign and self.used_bytes > until:
            self.used_bytes -= self._foreign.popleft()
        old, pinned = self._old_blocks(of_rank), []
        while old and self.used_bytes > until:
            block = old.popleft()
            if self._last_s.get(block, of_rank.starts[0]) >= of_rank.starts[0]:
                continue  # used since, or gone
            if self._is_pinned(of_rank.rank, block):
                pinned.append(block)
            else:
                self._remove(block)
        old.extendleft(reversed(pinned))
        if not keeps_guests:
            self._evict_guests(until, of_rank)

    def _evict_guests(self, until: int, of_rank: _WorkingSet) -> None:
        """Evict guests, the least recently used first, until no more than `until` is used."""
        guests, pinned = of_rank.guests, []
        while guests and self.used_bytes > until:
            used_s, block = heapq.heappop(guests)
            last_s = self._last_s.get(block)
            if last_s is None or not of_rank.is_guest[block]:
                continue
            if last_s != used_s:
                heapq.heappush(guests, (last_s, block))
            elif self._is_pinned(of_rank.rank, block):
                pinned.append((last_s, block))
            else:
                self._remove(block)
        for one in pinned:
            heapq.heappush(guests, one)

    def _remove(self, block: int) -> None:
        del self._last_s[block]
        length = page_rounded(self._table.lengths[block])
        self.used_bytes -= length
        self.evicted_bytes += length

    def _old_blocks(self, of_rank: _WorkingSet) -> deque[int]:
        if of_rank.old is None:
            starts = of_rank.starts
            first_s = starts[0] if len(starts) == PASSES else -1.0
            found = [(used_s, block) for block, used_s in self._last_s.items() if used_s < first_s]
            of_rank.old = deque(block for _, block in sorted(found))
        return of_rank.old
