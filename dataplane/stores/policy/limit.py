"""Semaphores that keep the requests under way to one place below a limit, per process.

All stores of one identity (endpoint and bucket) share one semaphore, so that ten datasets on one
bucket do not open ten times the connections. A call waits for a slot; the time goes to the counter
`store_wait_s`. Listings are sequential by nature and pass freely.

Thread-safe; a semaphore's lock is never held during a request. Leaving takes no lock, because a
stream that is abandoned leaves from a finalizer. In a forked child the semaphores are new: the
parent's requests are not the child's.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Generator
from queue import Empty, SimpleQueue

from dataplane.stores.base import Buffer, ObjectInfo, Store
from dataplane.stores.forwarder import StoreWrapper
from dataplane.telemetry import Counters

__all__ = ["LimitStore"]


class _Semaphore:
    """A semaphore of requests under way; each caller brings its own limit, first come first served.

    A caller that leaves puts a note into a queue, and one that enters takes the notes into account.
    The lock orders those that enter: its holder waits for a note, the others for the lock. So a
    caller with a large limit may wait behind one with a small limit, and none is passed over.
    """

    def __init__(self) -> None:
        self._entrance = threading.Lock()
        self._under_way = 0  # without the notes
        self._left: SimpleQueue[None] = SimpleQueue()

    def enter(self, limit: int) -> bool:
        """Take a slot; return whether that meant waiting."""
        waited = not self._entrance.acquire(blocking=False)
        if waited:
            self._entrance.acquire()
        try:
            with contextlib.suppress(Empty):
                while True:
                    self._left.get_nowait()
                    self._under_way -= 1
            while self._under_way >= limit:
                waited = True
                self._left.get()
                self._under_way -= 1
            self._under_way += 1
        finally:
            self._entrance.release()
        return waited

    def leave(self) -> None:
        """Give the slot back. Takes no lock: a finalizer may call it."""
        self._left.put(None)


class _Semaphores:
    """The semaphores of this process, by identity."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_identity: dict[str, _Semaphore] = {}

    def find(self, identity: str) -> _Semaphore:
        found = self._by_identity.get(identity)
        if found is not None:
            return found
        with self._lock:
            return self._by_identity.setdefault(identity, _Semaphore())

    def forget(self) -> None:
        self.__init__()  # type: ignore[misc]  # after a fork: the lock may be held by nobody


_semaphores = _Semaphores()
os.register_at_fork(after_in_child=_semaphores.forget)


class LimitStore(StoreWrapper):
    """A store whose requests wait for a slot."""

    def __init__(self, inner: Store, max_concurrency: int, counters: Counters) -> None:
        super().__init__(inner)
        self._limit = max_concurrency
        self._counters = counters

    def head(self, key: str) -> ObjectInfo:
        semaphore = self._enter()
        try:
            return self._inner.head(key)
        finally:
            semaphore.leave()

    def get_range(self, key: str, start: int, stop: int, *, if_match: str | None = None) -> Buffer:
        semaphore = self._enter()
        try:
            return self._inner.get_range(key, start, stop, if_match=if_match)
        finally:
            semaphore.leave()

    def stream_range(
        self,
        key: str,
        start: int,
        stop: int,
        *,
        piece_bytes: int,
        if_match: str | None = None,
    ) -> Generator[Buffer, None, None]:
        semaphore = self._enter()
        try:
            yield from self._inner.stream_range(
                key, start, stop, piece_bytes=piece_bytes, if_match=if_match
            )
        finally:
            semaphore.leave()

    def put(self, key: str, data: Buffer | os.PathLike[str]) -> ObjectInfo:
        semaphore = self._enter()
        try:
            return self._inner.put(key, data)
        finally:
            semaphore.leave()

    def delete(self, key: str) -> None:
        semaphore = self._enter()
        try:
            self._inner.delete(key)
        finally:
            semaphore.leave()

    def _enter(self) -> _Semaphore:
        """Take a slot; the caller gives it back."""
        semaphore = _semaphores.find(self.identity)
        begun_s = time.perf_counter()
        if semaphore.enter(self._limit):
            self._counters.add("store_wait_s", time.perf_counter() - begun_s)
        return semaphore
