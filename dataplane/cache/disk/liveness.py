"""Liveness locks: leases of entries that are open, and the processes that use the directory.

    DIR/live       0 bytes; only its byte locks matter

| byte | held |
|---|---|
| 0 … 1023 | exclusive, by the process whose counters are in `stats/<byte>.json` |
| 2^56 + the first 48 bits of an entry's name | shared, while the entry is leased |

All are open-file-description locks of one description per attachment to the directory. So a lease
costs no descriptor, and when its holder dies the kernel drops all of it: there is nothing to clean
up. Two names with the same 48 bits would only be leased together.

Thread-safe. The lock is held for bookkeeping and one system call that never waits: count and
kernel must change together.
"""

from __future__ import annotations

import fcntl
import os
import threading
from typing import Self

from dataplane.cache.disk import locks
from dataplane.cache.disk.directory import Directory

__all__ = ["MAX_SLOTS", "Lease", "LivenessLocks"]

MAX_SLOTS = 1024
"""Processes of one directory that can publish their counters at once."""

_HELD_START = 1 << 56
_NAME_DIGITS = 12  # 48 bits


class LivenessLocks:
    """This process's liveness locks in a cache directory, and queries of those of others."""

    def __init__(self, directory: Directory) -> None:
        self._pid = os.getpid()
        self._fd = self._asking_fd = -1
        self._lock = threading.Lock()
        self._held: dict[locks.LockByte, int] = {}
        flags = os.O_RDWR | os.O_CREAT
        self._fd = locks.open_descriptor("live", flags, dir_fd=directory.fd)
        # A description never sees its own locks, and our leases must count for us too.
        self._asking_fd = locks.open_descriptor("live", flags, dir_fd=directory.fd)

    def __del__(self) -> None:
        # Without the lock: nothing else refers to this object any more.
        self._close_descriptors()

    def close(self) -> None:
        """Let go of everything. Idempotent."""
        if self._pid != os.getpid():
            return  # the parent's: its descriptors are closed here, its lock may be taken for ever
        with self._lock:
            self._held = {}
            self._close_descriptors()

    def _close_descriptors(self) -> None:
        descriptors, self._fd, self._asking_fd = (self._fd, self._asking_fd), -1, -1
        for fd in descriptors:
            if fd >= 0 and self._pid == os.getpid():
                locks.close_descriptor(fd)

    def hold(self, name: str) -> None:
        """Keep an entry from being evicted until `let_go`, or until this process ends."""
        byte = _held_byte(name)
        with self._lock:
            count = self._held.get(byte, 0)
            if not count and self._fd >= 0:
                locks.lock_byte(self._fd, fcntl.F_RDLCK, byte, wait=False)
            self._held[byte] = count + 1

    def let_go(self, name: str) -> None:
        """Undo one `hold`."""
        byte = _held_byte(name)
        with self._lock:
            count = self._held.get(byte, 0)
            if count > 1:
                self._held[byte] = count - 1
            elif count:
                del self._held[byte]
                if self._fd >= 0:
                    locks.lock_byte(self._fd, fcntl.F_UNLCK, byte, wait=False)

    def is_held(self, name: str) -> bool:
        """Whether any process of the host, this one too, has a lease of an entry."""
        with self._lock:
            return self._asking_fd >= 0 and locks.is_locked(self._asking_fd, _held_byte(name))

    def take_slot(self) -> int | None:
        """Take a free slot in `stats/` until this process ends; None when there is none."""
        with self._lock:
            if self._fd < 0:
                return None
            for slot in range(MAX_SLOTS):
                # Asked first: a description may take its own lock twice, and so a slot of its own.
                byte = locks.LockByte(slot)
                if not locks.is_locked(self._asking_fd, byte) and locks.lock_byte(
                    self._fd, fcntl.F_WRLCK, byte, wait=False
                ):
                    return slot
            return None

    def is_slot_taken(self, slot: int) -> bool:
        """Whether the process that took a slot, this one too, is alive."""
        with self._lock:
            return self._asking_fd >= 0 and locks.is_locked(self._asking_fd, locks.LockByte(slot))


class Lease:
    """Lease of one entry: keeps it from being evicted; made by `Cache.lease`. A context manager.

    Args:
        live: liveness locks that hold it, or None for a lease that does nothing.
        name: name of the entry.
    """

    __slots__ = ("__weakref__", "_live", "_name")

    def __init__(self, live: LivenessLocks | None, name: str) -> None:
        self._live = live
        self._name = name
        if live is not None:
            live.hold(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go. Idempotent."""
        live, self._live = self._live, None
        if live is not None:
            live.let_go(self._name)


def _held_byte(name: str) -> locks.LockByte:
    return locks.LockByte(_HELD_START + int(name[:_NAME_DIGITS], 16))
