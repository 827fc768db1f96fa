"""The entries that this process has open, at most a fixed number of them (LRU).

An open entry costs two descriptors and a mapping, one more of each once a decoder reads from its
data file in place, and a dataset may have many thousand objects, so
the least recently used entries are let go. A thread that still works with one keeps it alive by its
reference. Thread-safe; files are opened without the lock, and of two threads that open the same
entry at once, one result is kept.
"""

from __future__ import annotations

import resource
import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass

from dataplane import _native
from dataplane.cache.disk.entry_identity import MAX_BLOCKS, EntrySpec, map_disk_bytes
from dataplane.cache.disk.session import Session
from dataplane.cache.entries.encryption import Blocks, SealedBlocks, Sealer
from dataplane.cache.eviction.budget import Budget
from dataplane.errors import CacheError
from dataplane.telemetry import Counters

__all__ = ["Entry", "EntryTable"]

_MAX_OPEN = 512
_DESCRIPTORS_PER_ENTRY = 3


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One open cache entry.

    Attributes:
        name: its name in the cache directory.
        blocks: its blocks; what is on the disk may be sealed.
        sealed_bytes: bytes by which a block is longer on the disk.
        budget: budget that room for its blocks is taken from.
    """

    name: str
    blocks: Blocks
    budget: Budget
    sealed_bytes: int = 0


class EntryTable:
    """The open entries of one attachment to a cache directory."""

    def __init__(
        self,
        session: Session,
        budget: Budget,
        counters: Counters,
        sealer: Sealer | None = None,
    ) -> None:
        self._session = session
        self._budget = budget
        self._counters = counters
        self._sealer = sealer
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        # A quarter of what the process may open: the rest is for the rest of the program.
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Weakly: a cycle would keep files open until the next garbage collection.
        drop_empty = weakref.WeakMethod(self.drop_empty)
        budget.on_pressure = lambda: call() if (call := drop_empty()) else None
        self._limit = max(4, min(_MAX_OPEN, soft // (4 * _DESCRIPTORS_PER_ENTRY)))

    def get(self, name: str, spec: EntrySpec) -> Entry:
        """Return an open entry, opening or making it first.

        Raises:
            CacheError: the entry is damaged and another process uses it, it is too large,
                or there is no room for its map.
            OSError: the file system refused.
        """
        with self._lock:
            entry = self._entries.get(name)
            if entry is not None:
                self._entries.move_to_end(name)
                return entry
        blocks, rebuilt = self._open(name, spec)
        if rebuilt:
            self._counters.add("cache_maps_rebuilt", rebuilt)
        shown: Blocks = blocks
        if self._sealer is not None:
            shown = SealedBlocks(blocks, name, self._sealer, spec.size_bytes, spec.block_bytes)
        entry = Entry(name, shown, self._budget, spec.sealed_bytes)
        dropped: list[Entry] = []  # closed after the lock is let go
        with self._lock:
            entry = self._entries.setdefault(name, entry)
            while len(self._entries) > self._limit:
                dropped.append(self._entries.popitem(last=False)[1])
        return entry

    def close(self) -> None:
        """Let go of all entries, so that others see that they are not in use here."""
        with self._lock:
            entries, self._entries = self._entries, OrderedDict()
        entries.clear()  # files are closed without the lock

    def drop_empty(self) -> None:
        """Let go of entries that hold no block, so that their files can be removed."""
        with self._lock:
            entries = list(self._entries.values())
        empty = [entry for entry in entries if not entry.blocks.resident_bytes()]
        with self._lock:
            for entry in empty:
                if self._entries.get(entry.name) is entry:
                    del self._entries[entry.name]

    def _open(self, name: str, spec: EntrySpec) -> tuple[_native.BlockMap, int]:
        """Open an entry's files; a new map takes its room from the budget first."""
        if spec.blocks > MAX_BLOCKS:
            raise CacheError(f"{spec.key!r} has {spec.blocks} blocks, {MAX_BLOCKS} are allowed")
        reserved = 0
        if not self._session.files.exists(name):
            if not self._budget.has_files():
                raise CacheError("the file system has hardly any files left")
            reserved = map_disk_bytes(spec.blocks)
            if not self._budget.reserve(reserved):
                raise CacheError(f"no room for the {reserved} bytes of a block map")
        grown = 0
        try:
            blocks, grown, rebuilt = self._session.files.open(spec, self._session.verify_tag)
        finally:
            self._budget.add(grown - reserved)
        return blocks, rebuilt
