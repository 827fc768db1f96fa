"""Sequential prefetch of one open file: a window ahead of a sequential reader, nothing otherwise.

Each read is compared with the end of the sequence of reads before it. Near it (requests of one
stream may overtake each other by a few) the sequence goes on; anywhere else a new one begins and
what was being fetched ahead is cancelled. Once a sequence has `START_BYTES`, the blocks after it
are fetched ahead within a window as long as it is, doubling with it up to `max_window_bytes`: a
reader of a header fetches a header, a reader of a file soon has the whole bandwidth. A random
reader has no sequences and so fetches only the blocks that it touches.

Thread-safe. One lock per open file, not held while fetching is started or stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Protocol

__all__ = ["NEAR_BYTES", "START_BYTES", "PrefetchHandle", "SequentialPrefetch"]

START_BYTES = 1 << 20
"""Length of a sequence from which more of it is expected: one request of the kernel."""

NEAR_BYTES = 4 << 20
"""Distance from the end of a sequence within which a read belongs to it: four requests."""


class PrefetchHandle(Protocol):
    """Handle of a prefetch under way, as `dataplane.cache.Plan`."""

    def advance(self, step: int) -> None:
        """Say that the reader has finished every read of steps below `step`."""
        ...

    def close(self) -> None:
        """Cancel what is left. Idempotent."""
        ...


StartFetching = Callable[[int, int], PrefetchHandle]
"""Fetch from an offset within the object onwards, within a window of bytes. Steps are blocks."""


class SequentialPrefetch:
    """Prefetch of one open file; offsets are those of the object. See the module's text.

    Args:
        start: first byte of the file.
        stop: one past its last byte; nothing is fetched from there on.
        block_bytes: the cache's unit of download.
        max_window_bytes: most bytes to fetch ahead of the reader; 0 switches it off.
        start_fetching: function that starts a prefetch.
    """

    def __init__(
        self,
        start: int,
        stop: int,
        *,
        block_bytes: int,
        max_window_bytes: int,
        start_fetching: StartFetching,
    ) -> None:
        self._stop = stop
        self._block_bytes = block_bytes
        self._max_window_bytes = max_window_bytes
        self._start_fetching = start_fetching
        self._lock = Lock()
        self._run_bytes = 0
        self._run_stop = start
        self._window_bytes = 0
        self._ahead: PrefetchHandle | None = None
        self._closed = False

    @property
    def window_bytes(self) -> int:
        """Window that is being fetched ahead of the reader; 0 when nothing is."""
        with self._lock:
            return self._window_bytes

    def note(self, start: int, stop: int) -> None:
        """Take a read of `[start, stop)` into account, before it is made."""
        unwanted: PrefetchHandle | None = None
        with self._lock:
            if abs(start - self._run_stop) <= NEAR_BYTES:
                # Only new bytes count: a reader that jumps about within a few blocks, or reads
                # the same ones again, is not sequential.
                self._run_bytes += max(0, stop - max(start, self._run_stop))
                self._run_stop = max(self._run_stop, stop)
            else:
                self._run_bytes, self._run_stop = stop - start, stop
                unwanted, self._ahead, self._window_bytes = self._ahead, None, 0
            grown = self._grown_window_locked()
            first = self._run_stop
            current = self._ahead
        if unwanted is not None:
            unwanted.close()
        if grown:
            self._replace(first, grown)
        elif current is not None:
            current.advance(start // self._block_bytes)

    def close(self) -> None:
        """Cancel what is being fetched. Idempotent."""
        with self._lock:
            self._closed = True
            unwanted, self._ahead, self._window_bytes = self._ahead, None, 0
        if unwanted is not None:
            unwanted.close()

    def _grown_window_locked(self) -> int:
        """Return the new window when it should grow, else 0; claims the growth for the caller."""
        next_block = -(-self._run_stop // self._block_bytes) * self._block_bytes
        if self._run_bytes < START_BYTES or next_block >= self._stop or self._closed:
            return 0
        wanted = max(self._block_bytes, 1 << (self._run_bytes.bit_length() - 1))
        wanted = min(wanted, self._max_window_bytes)
        if wanted <= self._window_bytes:
            return 0
        self._window_bytes = wanted
        return wanted

    def _replace(self, first: int, window_bytes: int) -> None:
        ahead = self._start_fetching(first, window_bytes)
        with self._lock:
            # Another thread may have jumped elsewhere, grown further or closed meanwhile.
            if self._window_bytes == window_bytes and not self._closed:
                unwanted, self._ahead = self._ahead, ahead
            else:
                unwanted = ahead
        if unwanted is not None:
            unwanted.close()
