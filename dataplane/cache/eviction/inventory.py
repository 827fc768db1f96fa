"""Inventory of a cache directory: a row per entry, and the sums that `dataplane cache info` prints.

Read-only, and no consistent snapshot: while processes fill and evict, rows are of slightly
different moments. Thread-safe; holds no state.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from dataplane import _native
from dataplane.cache.config import CacheConfig
from dataplane.cache.disk.directory import is_in_use
from dataplane.cache.disk.entry_identity import EntryIdentity, Scope
from dataplane.cache.disk.session import Session
from dataplane.errors import CacheError

__all__ = [
    "EntryRow",
    "StoreSum",
    "Totals",
    "add_up",
    "describe",
    "disk_room",
    "used_bytes",
    "walk",
]


@dataclass(frozen=True, slots=True)
class EntryRow:
    """Row of one entry.

    Attributes:
        name: its name in the cache directory.
        identity: the object version.
        size_bytes: the object's length.
        block_bytes: the length of a block.
        resident_bytes: bytes of the object that are on the local disk.
        oldest_tick: earliest of the last access times of its blocks, nanoseconds since the epoch; 0
            without blocks.
        used_tick: latest of them.
    """

    name: str
    identity: EntryIdentity
    size_bytes: int
    block_bytes: int
    resident_bytes: int
    oldest_tick: int
    used_tick: int

    @property
    def is_complete(self) -> bool:
        """Whether the whole object is on the local disk."""
        return self.resident_bytes == self.size_bytes

    @property
    def used_s(self) -> float | None:
        """Last access time, in seconds since the epoch."""
        return self.used_tick / 1e9 if self.used_tick else None


@dataclass(slots=True)
class StoreSum:
    """Sums over the entries of one store."""

    entries: int = 0
    complete: int = 0
    object_bytes: int = 0
    resident_bytes: int = 0


@dataclass(slots=True)
class Totals:
    """Sums over entries; `stores` by identity of the store."""

    entries: int = 0
    complete: int = 0
    object_bytes: int = 0
    resident_bytes: int = 0
    oldest_tick: int = 0
    used_tick: int = 0
    stores: dict[str, StoreSum] = field(default_factory=dict)


def describe(name: str, entry: _native.BlockMap) -> EntryRow:
    """Describe an open entry."""
    ticks = np.frombuffer(entry.ready_blocks(), np.uint64).reshape(-1, 2)[:, 1]
    return EntryRow(
        name,
        EntryIdentity.parse(entry.identity),
        entry.size_bytes,
        entry.block_bytes,
        entry.resident_bytes(),
        int(ticks.min()) if len(ticks) else 0,
        int(ticks.max()) if len(ticks) else 0,
    )


def walk(session: Session, scope: Scope | None = None) -> Iterator[EntryRow]:
    """Describe every whole entry, or those of a part of a store; in no order."""
    for name in session.files.names():
        entry = session.files.inspect(name, 0)
        if entry is not None:
            row = describe(name, entry)
            if scope is None or scope.covers(row.identity):
                yield row


def add_up(rows: Iterable[EntryRow]) -> Totals:
    """Sum over entries."""
    totals = Totals()
    for row in rows:
        store = totals.stores.setdefault(row.identity.store, StoreSum())
        for sums in (totals, store):
            sums.entries += 1
            sums.complete += row.is_complete
            sums.object_bytes += row.size_bytes
            sums.resident_bytes += row.resident_bytes
        if row.oldest_tick:
            oldest = totals.oldest_tick or row.oldest_tick
            totals.oldest_tick = min(oldest, row.oldest_tick)
            totals.used_tick = max(totals.used_tick, row.used_tick)
    return totals


def used_bytes(config: CacheConfig) -> int:
    """Return the bytes that a cache takes; 0 for a directory that is none, or cannot be used."""
    with contextlib.suppress(CacheError, OSError):
        if is_in_use(config.dir):
            with contextlib.closing(Session(config.dir, sharing=config.sharing)) as session:
                return max(0, session.usage.used)
    return 0


def disk_room(session: Session) -> tuple[int, int]:
    """Return the bytes of the file system, and those that are free for the user."""
    status = os.fstatvfs(session.directory.fd)
    return status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
