"""Keeps the requests under way to one place below a limit, for the whole process.

All stores of one identity (endpoint and bucket) share one gate, whoever opened them, so that ten
datasets on one bucket do not open ten times the connections. A call waits for its turn; the time
goes to the counter `store_wait_s`. Listings are sequential by nature and pass freely.

Thread-safe; a gate's lock is never held during a request. In a forked child the gates are new: the
parent's requests are not the child's.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Generator, Iterator

from dataplane.stores.base import Buffer, ObjectInfo, Store
from dataplane.stores.wrapper import StoreWrapper
from dataplane.telemetry import Counters

__all__ = ["LimitStore"]


class _Gate:
    """Counts the requests under way; each caller brings its own limit."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._under_way = 0

    def enter(self, limit: int) -> bool:
        """Take a place; return whether that meant waiting."""
        with self._changed:
            if self._under_way < limit:
                self._under_way += 1
                return False
            while self._under_way >= limit:
                self._changed.wait()
            self._under_way += 1
            return True

    def leave(self) -> None:
        with self._changed:
            self._under_way -= 1
            self._changed.notify()


class _Gates:
    """The gates of this process, by identity."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_identity: dict[str, _Gate] = {}

    def find(self, identity: str) -> _Gate:
        with self._lock:
            return self._by_identity.setdefault(identity, _Gate())

    def forget(self) -> None:
        self.__init__()  # type: ignore[misc]  # after a fork: the lock may be held by nobody


_gates = _Gates()
os.register_at_fork(after_in_child=_gates.forget)


class LimitStore(StoreWrapper):
    """A store that waits for its turn."""

    def __init__(self, inner: Store, max_concurrency: int, counters: Counters) -> None:
        super().__init__(inner)
        self._limit = max_concurrency
        self._counters = counters

    def head(self, key: str) -> ObjectInfo:
        with self._turn():
            return self._inner.head(key)

    def get_range(self, key: str, start: int, stop: int, *, if_match: str | None = None) -> Buffer:
        with self._turn():
            return self._inner.get_range(key, start, stop, if_match=if_match)

    def stream_range(
        self,
        key: str,
        start: int,
        stop: int,
        *,
        piece_bytes: int,
        if_match: str | None = None,
    ) -> Generator[Buffer, None, None]:
        with self._turn():
            yield from self._inner.stream_range(
                key, start, stop, piece_bytes=piece_bytes, if_match=if_match
            )

    def put(self, key: str, data: Buffer | os.PathLike[str]) -> ObjectInfo:
        with self._turn():
            return self._inner.put(key, data)

    def delete(self, key: str) -> None:
        with self._turn():
            self._inner.delete(key)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        gate = _gates.find(self.identity)
        begun_s = time.perf_counter()
        if gate.enter(self._limit):
            self._counters.add("store_wait_s", time.perf_counter() - begun_s)
        try:
            yield
        finally:
            gate.leave()
