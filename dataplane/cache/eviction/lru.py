"""LRU order over all entries, without opening every entry each time (a lazy heap).

Opening an entry costs 30 to 90 µs, so looking at all of 100,000 takes seconds. But the last access
time of a block only grows. So the oldest one that was ever seen in an entry is a lower bound of the
oldest one now, and the time before a listing is one for every entry that the listing did not have.
A heap of these bounds gives the entry that may hold the oldest block; it is opened, and its blocks
are candidates as long as they are older than the next bound. Then it goes back into the heap with
its new oldest time. That is the exact LRU order, for the price of the entries it touches.

The first bounds come from the catalog when there is a whole one (a wrong bound costs a worse
choice, nothing else), or from a look at every entry.

Not thread-safe: it belongs to the holder of the eviction lock.
"""

from __future__ import annotations

import heapq
import time
from collections import OrderedDict
from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataplane import _native
from dataplane.cache.disk.entry_identity import disk_bytes, map_disk_bytes, page_rounded
from dataplane.cache.disk.session import Session
from dataplane.cache.eviction.catalog import Catalog

__all__ = ["Candidate", "LruOrder"]

_OPEN_MAPS = 64  # kept open while evicting
_LISTING_S = 10.0  # how old a listing may be while there are still candidates
_NEVER = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Candidate:
    """Candidate for eviction: the least recently used block.

    Attributes:
        name: name of its entry.
        entry: its entry.
        block: its index.
        tick: its last access time, when it was looked at.
    """

    name: str
    entry: _native.BlockMap
    block: int
    tick: int


@dataclass(slots=True)
class _Look:
    """The blocks of one open entry, oldest first, and how far they have been offered."""

    entry: _native.BlockMap
    rows: npt.NDArray[np.uint64]  # (last access time, block)
    position: int = 0

    @property
    def next_tick(self) -> int:
        return int(self.rows[self.position, 0]) if self.position < len(self.rows) else _NEVER


class LruOrder:
    """LRU order of the blocks of one cache directory.

    Args:
        session: session in the directory.
        catalog: lower bounds by entry name, and the time before which the others were not there,
            when it is whole; or None.
    """

    def __init__(self, session: Session, catalog: Catalog | None) -> None:
        self._session = session
        self._catalog = catalog
        self._bounds: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []  # items that differ from `_bounds` are out of date
        self._listed_tick = 0
        self._listed_s = -_LISTING_S
        self._empty: set[str] = set()

    def take_empty(self) -> set[str]:
        """Return the names of entries found without blocks, or damaged, since the last call."""
        empty, self._empty = self._empty, set()
        return empty

    def refresh(self, *, at_once: bool = False) -> int | None:
        """List the entries again, unless that was done just now.

        Returns:
            What all entries take on the disk, if each of them had to be looked at.
        """
        now_s = time.monotonic()
        if not at_once and now_s - self._listed_s < _LISTING_S:
            return None
        tick = time.time_ns()
        fresh = [name for name in self._session.files.names() if name not in self._bounds]
        first, before = not self._listed_tick, self._listed_tick
        self._listed_tick, self._listed_s = tick, now_s
        known = self._catalog.bounds() if first and self._catalog is not None else None
        if known is not None:
            bounds, before = known
            for name in fresh:
                self._push(name, bounds.get(name, before))
            return None
        if first:
            return self._look_at_all(fresh)
        for name in fresh:
            self._push(name, before)
        return None

    def candidates(self, skip: Callable[[str], bool]) -> Generator[Candidate, None, None]:
        """Yield blocks, least recently used first, until the caller closes the generator.

        Args:
            skip: whether to pass over an entry.
        """
        opened: OrderedDict[str, _Look] = OrderedDict()
        later: dict[str, int] = {}  # bounds of what was passed over; for the next call
        current: tuple[str, _Look] | None = None
        try:
            while self._heap:
                bound, name = heapq.heappop(self._heap)
                if self._bounds.get(name) != bound:
                    continue
                if skip(name):
                    later[name] = bound
                    continue
                look = opened.get(name) or self._open(name, later)
                if look is None:
                    continue
                opened[name] = look
                opened.move_to_end(name)
                if len(opened) > _OPEN_MAPS:
                    opened.popitem(last=False)
                current = name, look
                limit = self._heap[0][0] if self._heap else _NEVER
                while look.next_tick <= limit and look.position < len(look.rows):
                    tick, block = look.rows[look.position].tolist()
                    yield Candidate(name, look.entry, block, tick)
                    look.position += 1
                    if look.entry.is_ready(block):
                        later.setdefault(name, tick)
                current = None
                if look.position < len(look.rows):
                    self._push(name, look.next_tick)
                elif name not in later:
                    self._found_empty(name, later)
        finally:
            if current is not None:
                name, look = current
                self._push(name, look.next_tick)
            for name, tick in later.items():
                self._push(name, tick)

    def _push(self, name: str, tick: int) -> None:
        self._bounds[name] = tick
        heapq.heappush(self._heap, (tick, name))

    def _open(self, name: str, later: dict[str, int]) -> _Look | None:
        entry = self._session.files.inspect(name, self._session.verify_tag)
        if entry is None:
            if self._session.files.exists(name):
                self._found_empty(name, later)
            else:
                self._bounds.pop(name, None)
            return None
        rows = _rows(entry)
        if not len(rows):
            self._found_empty(name, later)
            return None
        return _Look(entry, rows[np.argsort(rows[:, 0], kind="stable")])

    def _found_empty(self, name: str, later: dict[str, int]) -> None:
        self._empty.add(name)
        # Whatever is put into it from now on has a later access time.
        later[name] = time.time_ns()

    def _look_at_all(self, names: list[str]) -> int:
        total = 0
        for name in names:
            entry = self._session.files.inspect(name, self._session.verify_tag)
            if entry is None:
                self._empty.add(name)
                continue
            total += disk_bytes(entry) + map_disk_bytes(entry.blocks)
            total += page_rounded(entry.claimed_bytes())
            rows = _rows(entry)
            if len(rows):
                self._push(name, int(rows[:, 0].min()))
            else:
                self._empty.add(name)
                self._push(name, self._listed_tick)
        return total


def _rows(entry: _native.BlockMap) -> npt.NDArray[np.uint64]:
    """Return (last access time, block) of every block that is there."""
    return np.frombuffer(entry.ready_blocks(), np.uint64).reshape(-1, 2)[:, ::-1]
