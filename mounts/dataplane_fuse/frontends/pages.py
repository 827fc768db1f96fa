"""Policy of the kernel's page cache: when it may cache the pages of a file."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

__all__ = ["MAX_VERSIONS", "PageCachePolicy"]

MAX_VERSIONS = 100_000
"""Files whose last version is remembered; of others, the pages are read again."""


class PageCachePolicy:
    """Page cache policy: whether the kernel may cache the pages of an open file, and keep old ones.

    The kernel keeps pages per path, not per open file. So while one version of an object is open
    with the page cache, another version is opened with direct I/O; and pages of an earlier open
    are kept only when they are of the same version. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._versions: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._open: dict[int, str] = {}

    def opened(self, handle: int, path: str, version: str) -> tuple[bool, bool]:
        """Return whether to use direct I/O, and whether to keep the pages that are there."""
        with self._lock:
            known, users = self._versions.get(path, ("", 0))
            if users and known != version:
                return True, False
            self._versions[path] = (version, users + 1)
            self._versions.move_to_end(path)
            self._open[handle] = path
            self._forget_unused_locked()
            return False, known == version

    def released(self, handle: int) -> None:
        """Take note that a file was closed."""
        with self._lock:
            path = self._open.pop(handle, None)
            if path is not None:
                version, users = self._versions[path]
                self._versions[path] = (version, users - 1)

    def _forget_unused_locked(self) -> None:
        if len(self._versions) > MAX_VERSIONS:
            path, (_, users) = next(iter(self._versions.items()))
            if users == 0:
                del self._versions[path]
            else:
                self._versions.move_to_end(path)
