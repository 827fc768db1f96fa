"""Open files: numbers for the kernel, and what is behind each.

A handle keeps the object version that was there when the file was opened; reads of it never show
another version. The table is bounded, because a program that leaks descriptors must not take the
mount's memory with it. Thread-safe.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import NewType, Protocol

from dataplane_fuse.errnos import os_error
from dataplane_fuse.nodes import FileNode
from dataplane_fuse.prefetch_handle import SequentialPrefetch

__all__ = ["DEFAULT_MAX_HANDLES", "Handle", "HandleTable", "OpenFile", "Reader"]

Handle = NewType("Handle", int)

DEFAULT_MAX_HANDLES = 65_536


class Reader(Protocol):
    """One object version, as `dataplane.cache.CachedObject`."""

    def read_into(self, start: int, stop: int, buffer: memoryview) -> None:
        """Fill `buffer` with bytes `[start, stop)` of the object."""
        ...

    def is_complete(self) -> bool:
        """Whether every byte is in the cache."""
        ...

    def close(self) -> None:
        """Give up the object. Idempotent."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class OpenFile:
    """Open file, behind one handle.

    Attributes:
        node: the file as it was when it was opened.
        reader: reader of its object through the cache.
        ahead: prefetch of its next reads.
    """

    node: FileNode
    reader: Reader
    ahead: SequentialPrefetch

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset`; return how many bytes there were before the end."""
        start = self.node.start + offset
        stop = min(start + len(buffer), self.node.stop)
        if start >= stop:
            return 0
        self.ahead.note(start, stop)
        self.reader.read_into(start, stop, buffer[: stop - start])
        return stop - start

    def close(self) -> None:
        """Stop reading ahead and give up the object."""
        self.ahead.close()
        self.reader.close()


class HandleTable:
    """Open files by number."""

    def __init__(self, limit: int = DEFAULT_MAX_HANDLES) -> None:
        self._limit = limit
        self._lock = Lock()
        self._files: dict[Handle, OpenFile] = {}
        self._next = 1

    def __len__(self) -> int:
        with self._lock:
            return len(self._files)

    def add(self, path: str, open_file: Callable[[], OpenFile]) -> Handle:
        """Open a file and return its number.

        Raises:
            OSError: ENFILE, too many files are open.
        """
        with self._lock:
            if len(self._files) >= self._limit:
                raise os_error(errno.ENFILE, path)
        file = open_file()
        with self._lock:
            handle = Handle(self._next)
            self._next += 1
            self._files[handle] = file
        return handle

    def get(self, handle: int) -> OpenFile:
        """Return the open file of a number.

        Raises:
            OSError: EBADF, no file of that number is open.
        """
        # A dict lookup is atomic; the lock would cost as much as the rest of a small read.
        file = self._files.get(Handle(handle))
        if file is None:
            raise os_error(errno.EBADF, f"handle {handle}")
        return file

    def release(self, handle: int) -> None:
        """Close a file; a number that is not open is ignored."""
        with self._lock:
            file = self._files.pop(Handle(handle), None)
        if file is not None:
            file.close()

    def close(self) -> None:
        """Close all files. Idempotent."""
        with self._lock:
            files, self._files = list(self._files.values()), {}
        for file in files:
            file.close()
