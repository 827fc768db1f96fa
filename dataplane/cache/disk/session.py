"""Session of one process in a cache directory: the shared numbers, and what a crash before it left.

Every process holds a shared lock on the session byte. One that finds no other there knows whether
the last one left in order (`dirty` is 0). If not, the epoch goes up, so that every block is checked
against its CRC at its next use. Then orphans are removed and the bytes in use are reconciled, here
if there are few entries, else later and in the background (`reconcile`). After a boot blocks are
checked too: the verify tag is made of the boot's identity and the epoch.

Attaching and leaving happen under the setup lock. Not thread-safe; its owner is `Cache`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path

from dataplane import _native
from dataplane.cache.disk import locks
from dataplane.cache.disk.directory import Directory
from dataplane.cache.disk.entry_files import EntryFiles
from dataplane.cache.disk.liveness import LivenessLocks
from dataplane.cache.disk.pins import PinList, Protection
from dataplane.cache.disk.reconcile import MANY_ENTRIES, estimated_entries, reconcile
from dataplane.cache.disk.throttle import Throttle
from dataplane.cache.permissions import Sharing

__all__ = ["Session", "verify_tag"]

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def _boot_identity() -> bytes:
    try:
        return _BOOT_ID.read_bytes()
    except OSError:  # no /proc: check every block once per process
        return os.urandom(16)


def verify_tag(epoch: int) -> int:
    """Return the tag that marks blocks as checked in this boot and epoch; never 0."""
    digest = hashlib.blake2b(_boot_identity() + epoch.to_bytes(8, "little"), digest_size=8)
    return int.from_bytes(digest.digest(), "little") | 1


class Session:
    """A process's session in one cache directory, until `close`.

    Args:
        path: the directory; made when it is not there.
        sharing: users that share it.

    Raises:
        CacheError: the directory cannot serve as a cache.
        OSError: the file system refused.
    """

    def __init__(self, path: Path, *, sharing: Sharing = "private") -> None:
        self.directory = Directory(path, sharing=sharing)
        self.files = EntryFiles(self.directory)
        self.pins = PinList(self.directory)
        self._fd = -1
        self._pid = os.getpid()
        try:
            with locks.hold(self.directory.fd, locks.SETUP_BYTE):
                self._fd = locks.open_descriptor("lock", os.O_RDWR, dir_fd=self.directory.fd)
                alone = self._lock(fcntl.F_WRLCK)
                self.usage: _native.UsageFile = self.directory.open_usage(alone=alone)
                if alone:
                    if self.usage.dirty:
                        self.usage.bump_epoch()
                        self.usage.uncounted = True
                    self.usage.dirty = True
                    if self.usage.uncounted and estimated_entries(self.directory) < MANY_ENTRIES:
                        self.reconcile()
                self._lock(fcntl.F_RDLCK)
                self.verify_tag = verify_tag(self.usage.epoch)
                self.live = LivenessLocks(self.directory)
                self.protection = Protection(self.pins, self.live)
        except BaseException:
            locks.close_descriptor(self._fd)
            raise

    def close(self) -> None:
        """Leave; the last one to leave marks the cache as clean. Idempotent."""
        if self._fd < 0 or self._pid != os.getpid():
            return
        self.live.close()
        try:
            with locks.hold(self.directory.fd, locks.SETUP_BYTE):
                if self._lock(fcntl.F_WRLCK):
                    self.usage.dirty = False
                self._lock(fcntl.F_UNLCK)
        except OSError:
            pass  # the directory is gone; nothing is left to mark
        locks.close_descriptor(self._fd)
        self._fd = -1

    def reconcile(self, throttle: Throttle | None = None) -> bool:
        """Count the bytes in use again and tidy up; see `reconcile.py`.

        Raises:
            OSError: the directory cannot be read.
        """
        return reconcile(self.directory, self.files, self.usage, throttle)

    def _lock(self, kind: int) -> bool:
        return locks.lock_byte(self._fd, kind, locks.SESSION_BYTE, wait=False)
