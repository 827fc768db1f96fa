"""Scratch folders: temporary folders that do not outlive their process, even if it is killed.

`tempfile` removes its folders when the interpreter ends in order; a killed process leaves gigabytes
of half-made shards, unpacked archives or a demo's data. So each folder is locked (flock on the
folder itself) by the process that made it, and the kernel releases the lock when that process dies
in any way. A process that makes a folder first removes those of the same user whose lock is free.

A folder may be found in the moment between its making and its locking; its maker notices and makes
another. Where locks do not work (some network file systems), leftovers stay. Thread-safe.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from dataplane.telemetry import logger

__all__ = ["ScratchFolder"]

_PREFIX = "dataplane-shards-"
_ATTEMPTS = 100


class ScratchFolder:
    """A temporary folder, made at once.

    Args:
        parent: folder that it is made in; the system's default when None.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, parent: Path | None = None) -> None:
        base = Path(parent if parent is not None else tempfile.gettempdir())
        _remove_abandoned(base)
        for _ in range(_ATTEMPTS):
            path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
            lock = _lock(path)
            if lock is not None:
                self.path = path
                self._lock: int | None = lock
                return
        raise OSError(f"{base}: every new folder is removed by another process")

    def close(self) -> None:
        """Remove the folder and its content. Idempotent."""
        lock, self._lock = self._lock, None
        if lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(lock)


def _remove_abandoned(base: Path) -> None:
    """Remove folders whose process is gone."""
    try:
        found = [path for path in base.iterdir() if path.name.startswith(_PREFIX)]
    except OSError:
        return  # Making a folder in it will raise the error.
    for path in found:
        lock = _lock(path)
        if lock is not None:
            logger.info("removing %s, left by a process that was killed", path)
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _lock(path: Path) -> int | None:
    """Lock a folder of this user and return its handle, or None when it is in use or gone."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held, there = os.fstat(handle), os.lstat(path)
        if held.st_uid == os.geteuid() and held.st_ino == there.st_ino:
            return handle
    except OSError:
        pass
    os.close(handle)
    return None
