"""Working sets: scan-resistant admission of what is read again and again and does not fit.

A training run reads every sample once per epoch, in a new order each time. When the cache has room
for a fraction c of the dataset, the least recently used blocks are the ones that the epoch is still
about to read, and evicting them leaves a hit rate of c + (1 - c)·ln(1 - c): 0.5 % at c = 0.1. All
that was read is read again after an epoch on average, at no moment that is known; so any set of
blocks that stays is as good as any other, and the hit rate is c, as long as it stays. Therefore a
planned download evicts nothing of its own working set (the objects that its plans read), unless
that was not used for several passes. When there is nothing else to evict, the block is handed to
its reader and not kept, which spares the disk the write as well.

Where nodes share the samples of a job out by owner, it does matter which blocks stay: this node
reads what it owns in most epochs, and a *guest*, a block of samples that another node owns, in few.
A guest evicts nothing of its working set either, but goes when a block that is owned needs room.

Unplanned downloads go by LRU order alone. Thread-safe; one lock, held for bookkeeping.
"""

from __future__ import annotations

import threading
import time
from collections import deque

__all__ = ["PASSES", "WorkingSet", "WorkingSets"]

PASSES = 4
"""Entries not used in so many passes, of training and validation, leave their working set."""

_FULL_S = 1.0  # between two attempts to find something to evict

_GUEST, _OWNED = 1, 2  # kinds of blocks; 0 where samples have no owners


class WorkingSet:
    """The objects that plans read together, and when the last passes over them began."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._starts: deque[int] = deque(maxlen=PASSES)
        self._full_until_s = 0.0
        self._full_for_guests_until_s = 0.0
        self._kinds: dict[str, bytearray] = {}  # by entry, of each block

    @property
    def is_full(self) -> bool:
        """Whether the cache had no room for some block of it just now."""
        return self.is_full_for(is_guest=True)

    def is_full_for(self, *, is_guest: bool) -> bool:
        """Whether the cache had no room for a guest, or for another block, of it just now."""
        until_s = self._full_for_guests_until_s if is_guest else self._full_until_s
        return time.monotonic() < until_s

    def mark_full(self, *, is_guest: bool = False) -> None:
        """Say that there is nothing to evict for it, or for guests of it, for a while."""
        self._full_for_guests_until_s = time.monotonic() + _FULL_S
        if not is_guest:
            self._full_until_s = self._full_for_guests_until_s

    def note_kind(self, name: str, block: int, blocks: int, *, is_guest: bool) -> None:
        """Say whether a block is a guest; one that was owned once stays owned.

        Args:
            name: name of the entry.
            block: number of the block.
            blocks: number of blocks of the entry.
            is_guest: whether it is read for samples that another node owns.
        """
        kinds = self._kinds.get(name)
        if kinds is None:
            kinds = self._kinds.setdefault(name, bytearray(blocks))
        kinds[block] = max(kinds[block], _GUEST if is_guest else _OWNED)

    def is_guest(self, name: str, block: int) -> bool:
        """Whether a block was read for samples that another node owns, and for no others."""
        kinds = self._kinds.get(name)
        return kinds is not None and block < len(kinds) and kinds[block] == _GUEST

    def keeps(self, name: str, tick: int) -> bool:
        """Whether a block of entry `name`, last used at `tick`, must stay."""
        if name not in self._names:
            return False
        starts = self._starts
        return len(starts) < PASSES or tick >= starts[0]


class WorkingSets:
    """The working sets of a process, by the names of their entries."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_name: dict[str, WorkingSet] = {}

    def of(self, name: str) -> WorkingSet | None:
        """Return the working set that an entry belongs to, if a plan ever read it."""
        return self._by_name.get(name)

    def join(self, name: str, working_set: WorkingSet | None, tick: int) -> WorkingSet:
        """Say that a pass reads an entry.

        Args:
            name: name of the entry.
            working_set: working set of the pass's entries before this one; None for its first.
            tick: time at which the pass began, in nanoseconds since 1970.

        Returns:
            The working set of the pass.
        """
        with self._lock:
            if working_set is None:
                working_set = self._by_name.get(name) or WorkingSet()
                working_set._starts.append(tick)
            working_set._names.add(name)
            self._by_name[name] = working_set
            return working_set
