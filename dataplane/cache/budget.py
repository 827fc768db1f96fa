"""How much of the disk the cache takes, and which blocks go when it is full.

`Budget.reserve` is asked before a block is written and answers whether there is room, after
evicting if need be. The bytes in use are one number shared by all processes (the usage file), so
the budget holds across them. Without a budget, the cache leaves a tenth of the file system free.

Eviction is done by one process at a time, under the eviction lock: it looks at the use ticks of all
blocks of all entries, and empties the least recently used ones until a slack below the budget is
reached. It passes over blocks that are being filled (somebody else holds their claim), that were
used since the look, or that a plan of this process is about to read. Readers need no warning: their
sequence check turns a block that goes away under them into a miss.

The same look counts what is really there; when the shared number has drifted from it (a process was
killed between reserving and filling), the number is corrected.

Thread-safe. No lock of this process is held while the disk works.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from dataplane import _native
from dataplane.cache import locks
from dataplane.cache.session import Session
from dataplane.cache.spec import disk_bytes, map_disk_bytes, page_rounded
from dataplane.telemetry import Counters

__all__ = ["Budget"]

_FREE_SHARE = 10  # without a budget, 1/10 of the file system stays free
_SLACK_SHARE = 20  # an eviction goes on to 1/20 below the budget, so that not every fill evicts
_MAX_SLACK_BYTES = 4 << 30
_DRIFT_BYTES = 64 << 20  # smaller differences may be fills under way
_OPEN_MAPS = 64  # maps kept open while evicting
_EVICT_WAIT_S = 5.0  # for another process's eviction
_EVICT_POLL_S = 0.005


class Budget:
    """Room for blocks, shared by all processes of one cache directory.

    Args:
        session: this process's stay in the directory.
        size_bytes: the budget, or None to leave a tenth of the file system free.
        is_planned: whether a plan of this process will read a block (entry name, block) soon.
        counters: where evictions are counted.
    """

    def __init__(
        self,
        session: Session,
        size_bytes: int | None,
        is_planned: Callable[[str, int], bool],
        counters: Counters,
    ) -> None:
        self._session = session
        self._size_bytes = size_bytes
        self._is_planned = is_planned
        self._counters = counters
        self.on_pressure: Callable[[], None] = lambda: None
        """Called before empty entries are removed: let go of those that need not be open."""

    @property
    def used_bytes(self) -> int:
        """Bytes of disk space that the cache takes, of all processes."""
        return max(0, self._session.usage.used)

    def reserve(self, length: int) -> bool:
        """Take `length` bytes, evicting others if need be; False when there is no room."""
        wanted = page_rounded(length)
        usage = self._session.usage
        usage.add_used(wanted)
        if self._excess(wanted) <= 0 or self._make_room(wanted):
            return True
        usage.add_used(-wanted)
        return False

    def release(self, length: int) -> None:
        """Give back what `reserve` took and nobody wrote."""
        self._session.usage.add_used(-page_rounded(length))

    def add(self, length: int) -> None:
        """Count files that are there or gone already."""
        self._session.usage.add_used(length)

    def free(self, length: int) -> int:
        """Evict at least `length` bytes if possible, also below the budget; for a full disk."""
        with locks.hold(self._session.directory.fd, locks.EVICT_BYTE, wait=False) as held:
            return self._evict(length) if held else 0

    def _excess(self, unwritten: int) -> int:
        """Bytes over the budget, given `unwritten` bytes that are reserved but not on the disk."""
        if self._size_bytes is not None:
            return self._session.usage.used - self._size_bytes
        status = os.fstatvfs(self._session.directory.fd)
        free = status.f_bavail * status.f_frsize - unwritten
        return status.f_blocks * status.f_frsize // _FREE_SHARE - free

    def _make_room(self, wanted: int) -> bool:
        size = self._size_bytes
        if size is not None and wanted > size:
            return False
        slack = min((size if size is not None else 1 << 40) // _SLACK_SHARE, _MAX_SLACK_BYTES)
        deadline = time.monotonic() + _EVICT_WAIT_S
        while time.monotonic() < deadline:
            with locks.hold(self._session.directory.fd, locks.EVICT_BYTE, wait=False) as held:
                # Whoever held the lock before may have made the room.
                excess = self._excess(wanted)
                if excess <= 0:
                    return True
                if excess > self.used_bytes:  # emptying the cache would not do
                    return False
                if held and not self._evict(excess + slack):
                    return self._excess(wanted) <= 0
            if not held:
                time.sleep(_EVICT_POLL_S)
        return False

    def _evict(self, goal: int) -> int:
        """Empty the least recently used blocks; the caller holds the eviction lock."""
        names, rows, empty = self._look()
        freed = self._remove_empty(empty)
        files = self._session.files
        opened: OrderedDict[str, _native.BlockMap] = OrderedDict()
        touched: set[str] = set()
        evicted = 0
        for tick, which, block in rows.tolist():
            if freed + evicted >= goal:
                break
            name = names[which]
            if self._is_planned(name, block):
                continue
            entry = opened.get(name) or files.inspect(name, self._session.verify_tag)
            if entry is None:
                continue
            opened[name] = entry
            opened.move_to_end(name)
            if len(opened) > _OPEN_MAPS:
                opened.popitem(last=False)
            got = page_rounded(_evict_block(entry, block, tick))
            if got:
                evicted += got
                touched.add(name)
                self._session.usage.add_used(-got)
        self._counters.add("cache_evicted_bytes", evicted)
        opened.clear()
        return freed + evicted + self._remove_empty(touched)

    def _remove_empty(self, names: set[str]) -> int:
        """Remove the files of entries that hold no block and that nobody has open."""
        if not names:
            return 0
        self.on_pressure()
        freed = sum(self._session.files.remove_unused(name) for name in names)
        self._session.usage.add_used(-freed)
        return freed

    def _look(
        self,
    ) -> tuple[list[str], np.ndarray[tuple[int, int], np.dtype[np.uint64]], set[str]]:
        """Find all blocks, and the entries that are damaged or have none.

        Returns:
            Names; rows of (use tick, index into names, block), least recent first; empty entries.
        """
        names: list[str] = []
        empty: set[str] = set()
        tables = [np.empty((0, 3), np.uint64)]
        total = 0
        for name in self._session.files.names():
            entry = self._session.files.inspect(name, self._session.verify_tag)
            if entry is None:
                empty.add(name)
                continue
            total += disk_bytes(entry) + map_disk_bytes(entry.blocks)
            total += page_rounded(entry.claimed_bytes())
            blocks = np.frombuffer(entry.ready_blocks(), np.uint64).reshape(-1, 2)
            if not len(blocks):
                empty.add(name)
                continue
            table = np.empty((len(blocks), 3), np.uint64)
            table[:, 0] = blocks[:, 1]
            table[:, 1] = len(names)
            table[:, 2] = blocks[:, 0]
            names.append(name)
            tables.append(table)
        drift = self._session.usage.used - total
        if abs(drift) > _DRIFT_BYTES:
            self._session.usage.add_used(-drift)
        rows = np.concatenate(tables)
        return names, rows[np.argsort(rows[:, 0], kind="stable")], empty


def _evict_block(entry: _native.BlockMap, block: int, tick: int) -> int:
    if not entry.try_claim(block):
        return 0
    try:
        return entry.evict(block, tick)
    finally:
        entry.release(block)
