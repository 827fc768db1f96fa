"""Replacements of objects while a client reads them: after the n-th GET, other bytes.

The n-th GET gets the old version, and every request that arrives once that response has begun sees
the new one. So a client that reads an object in ranges meets the change between two fixed ranges,
with any order of the threads.

Thread-safe: one lock around the table; commits happen outside it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from dataplane_testing.s3.objects import Attributes, ObjectFiles, Staged

__all__ = ["Replacements"]


@dataclass(slots=True)
class _Pending:
    gets_left: int
    staged: Staged
    etag: str


class Replacements:
    """Replacements that wait for their GET."""

    def __init__(self, files: ObjectFiles) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._pending: dict[tuple[str, str], _Pending] = {}
        self.done = 0
        """Number of replacements that have happened."""

    def schedule(self, bucket: str, key: str, staged: Staged, etag: str, after_gets: int) -> None:
        """Replace an object once it has been opened `after_gets` more times.

        Takes over the staged file. A replacement that was waiting for this object is dropped.
        """
        with self._lock:
            old = self._pending.pop((bucket, key), None)
            self._pending[bucket, key] = _Pending(after_gets, staged, etag)
        if old is not None:
            old.staged.close()

    def note_get(self, bucket: str, key: str) -> bool:
        """Count a GET whose version has been opened; True where it was the last of the old one."""
        if not self._pending:
            return False
        with self._lock:
            pending = self._pending.get((bucket, key))
            if pending is None:
                return False
            pending.gets_left -= 1
            if pending.gets_left > 0:
                return False
            del self._pending[bucket, key]
            self.done += 1
        with pending.staged as staged:
            self._files.commit(bucket, key, staged, etag=pending.etag, attributes=Attributes())
        return True

    def close(self) -> None:
        """Drop the waiting replacements. Idempotent."""
        with self._lock:
            pending, self._pending = list(self._pending.values()), {}
        for one in pending:
            one.staged.close()
