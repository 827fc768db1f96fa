"""Byte locks in the cache directory's `lock` file, and the descriptors that hold them.

All locks are open-file-description (OFD) locks: the kernel drops them when their holder dies, and
two descriptions of one process exclude each other as two processes do. Each lock here is taken on a
description of its own, so threads need nothing else to keep apart.

A forked child inherits descriptions and with them the locks of its parent. So the descriptors of
this package are listed here, themselves or through the map that owns them, and `close_inherited`
closes them in the child. One that a fork meets after it was opened and before it is listed stays
open in the child; nothing is locked through it yet. A lock is released by an explicit unlock, which
also takes it from copies of the description that a child may hold.

Thread-safe. The list of descriptors has no lock of its own: finalizers close descriptors, and one
that took a lock could wait for its own thread (`dataplane/deferred.py`). Adding a number to a set
and taking it out are single steps of the interpreter. The order in which locks may be held is in
docs/locks.md.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NewType

from dataplane import _native
from dataplane.cache.permissions import is_of_group, open_in_group
from dataplane.weak_registry import WeakRegistry

__all__ = [
    "CATALOG_BYTE",
    "EVICT_BYTE",
    "PINS_BYTE",
    "SESSION_BYTE",
    "SETUP_BYTE",
    "LockByte",
    "close_descriptor",
    "close_inherited",
    "hold",
    "is_any_byte_locked",
    "is_locked",
    "lock_byte",
    "locked_until",
    "open_descriptor",
    "shard_byte",
    "track",
]

LockByte = NewType("LockByte", int)

# Bytes 0-255: the creation and removal of files in entries/00 to entries/ff.
SETUP_BYTE = LockByte(1024)  # exclusive while a process attaches to or leaves the directory
EVICT_BYTE = LockByte(1025)  # exclusive while a process evicts
SESSION_BYTE = LockByte(1026)  # shared by every process that uses the directory
PINS_BYTE = LockByte(1027)  # exclusive while the list of pins is changed
CATALOG_BYTE = LockByte(1028)  # exclusive, by the process that refreshes the catalog

_FLOCK = struct.Struct("hhqqi4x")  # struct flock on 64-bit Linux

_descriptors: set[int] = set()
_maps: WeakRegistry[_native.BlockMap] = WeakRegistry()


def shard_byte(name: str) -> LockByte:
    """Return the lock of the subfolder that holds entry `name` (hexadecimal)."""
    return LockByte(int(name[:2], 16))


def open_descriptor(path: str, flags: int, *, dir_fd: int | None = None) -> int:
    """Open close-on-exec and through no symbolic link, and list the descriptor here.

    What is made has mode 0600, or 0660 in a folder of a group (`permissions.py`).
    """
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW
    if flags & os.O_CREAT and dir_fd is not None and is_of_group(dir_fd):
        fd = open_in_group(path, flags, dir_fd)
    else:
        fd = os.open(path, flags, 0o600, dir_fd=dir_fd)
    _descriptors.add(fd)
    return fd


def close_descriptor(fd: int) -> None:
    """Close a descriptor made by `open_descriptor`, unless a fork has closed it already.

    Takes no lock: finalizers call it.
    """
    try:
        _descriptors.remove(fd)
    except KeyError:
        return
    os.close(fd)


def track(opened: _native.BlockMap) -> None:
    """List a map, whose descriptors a forked child must close."""
    _maps.add(opened)


def close_inherited() -> None:
    """Close every listed descriptor; called in a forked child, which has one thread."""
    for fd in _descriptors:
        os.close(fd)
    _descriptors.clear()
    for opened in _maps:
        opened.abandon()
    _maps.clear()


def lock_byte(fd: int, kind: int, byte: LockByte, *, wait: bool) -> bool:
    """Lock one byte for this open file description; `kind` is F_RDLCK, F_WRLCK or F_UNLCK.

    Returns:
        False when another description holds it and `wait` is false.
    """
    command = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
    try:
        fcntl.fcntl(fd, command, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def is_locked(fd: int, byte: LockByte) -> bool:
    """Whether another open file description has locked a byte; takes no lock."""
    return locked_until(fd, byte) is not None


def locked_until(fd: int, byte: LockByte) -> LockByte | None:
    """Return where another description's lock on a byte ends; None when it has none there.

    The kernel joins neighbouring locks of one description, so that may be several bytes further.
    """
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    answer = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))
    if answer[0] == fcntl.F_UNLCK:
        return None
    return LockByte(max(answer[2] + answer[3], byte + 1))


def is_any_byte_locked(fd: int) -> bool:
    """Whether another open file description has locked any byte of a file; takes no lock."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)  # length 0: to the end of all offsets
    answer = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))
    return bool(answer[0] != fcntl.F_UNLCK)


@contextmanager
def hold(dir_fd: int, byte: LockByte, *, wait: bool = True) -> Iterator[bool]:
    """Hold one byte of the `lock` file of a cache directory exclusively.

    Yields:
        Whether the lock is held (always true with `wait`).
    """
    fd = open_descriptor("lock", os.O_RDWR | os.O_CREAT, dir_fd=dir_fd)
    try:
        held = lock_byte(fd, fcntl.F_WRLCK, byte, wait=wait)
        try:
            yield held
        finally:
            if held:
                lock_byte(fd, fcntl.F_UNLCK, byte, wait=False)
    finally:
        close_descriptor(fd)
