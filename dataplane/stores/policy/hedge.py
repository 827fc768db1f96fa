"""Hedged reads: a late ranged read is sent a second time, and the first response is taken.

A few of many requests to an object store take a hundred times as long as the rest: a slow disk, a
lost packet, a connection that stalls. A training step waits for the slowest of its reads, so a read
that is later than nearly all of its kind is sent again (Source: J. Dean, L. A. Barroso, "The Tail
at Scale", Communications of the ACM 56(2), 2013); `hedge_threshold.py` says what late is.

A late read cannot be left by the thread that waits for it. So the request runs in a thread of its
own (`daemon_pool`), and its caller can turn to the second one; when all threads are busy the caller
does the read itself. The way through another thread costs some twenty microseconds, which a read of
a fraction of a millisecond would feel: where reads are as quick as that and none was late for long
(`HedgeThreshold`), they stay in their caller's thread, until one of them is late. That one is not
sent again; the others notice, and are looked after from then on. A whole read that lost is left to
end by itself; a stream is watched piece by piece (`hedged_stream`), and one that lost is closed at
its next piece.

Only the request that wins is learned from, and from its own start: a store that stalls for 30 s now
and then would otherwise teach that 30 s are nothing special.

This wrapper belongs inside `limit`: a request that was given up on holds no slot there. Adds to
the counters `store_hedges` and `store_hedges_won`. Thread-safe; a forked child starts without
threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TypeAlias

from dataplane.stores.base import Buffer, Store
from dataplane.stores.daemon_pool import shared_daemon_pool
from dataplane.stores.forwarder import StoreWrapper
from dataplane.stores.policy.hedge_threshold import HedgeThreshold
from dataplane.stores.policy.hedged_stream import HedgedStream
from dataplane.telemetry import Counters
from dataplane.weak_registry import WeakRegistry

__all__ = ["HedgeStore"]

_Answer: TypeAlias = tuple[Buffer, float]
"""Bytes, and the time they took to come."""


class HedgeStore(StoreWrapper):
    """A store whose late reads are sent again.

    Args:
        inner: store to read from.
        floor_s: least time after which a read is late.
        counters: counters of the hedges.
    """

    def __init__(self, inner: Store, floor_s: float, counters: Counters) -> None:
        super().__init__(inner)
        self._counters = counters
        self._latencies = HedgeThreshold(floor_s)
        self._here: dict[object, float] = {}  # reads in their callers' threads: when each is late
        _stores.add(self)

    def _forget(self) -> None:
        """Drop what belongs to threads that a forked child does not have."""
        self._here = {}
        self._latencies.renew_lock()

    def get_range(self, key: str, start: int, stop: int, *, if_match: str | None = None) -> Buffer:
        def read() -> _Answer:
            begun_s = time.perf_counter()
            content = self._inner.get_range(key, start, stop, if_match=if_match)
            return content, time.perf_counter() - begun_s

        kind = max(stop - start, 0).bit_length()
        late_s = self._latencies.late_after_s(kind)
        if late_s is None:
            content, elapsed_s = read()
        elif self._latencies.is_quick(kind) and not self._is_any_late():
            content, elapsed_s = self._read_here(read, late_s)
        else:
            content, elapsed_s = self._handed_over(read, late_s)
        self._latencies.add(kind, elapsed_s)
        return content

    def stream_range(
        self,
        key: str,
        start: int,
        stop: int,
        *,
        piece_bytes: int,
        if_match: str | None = None,
    ) -> Generator[Buffer, None, None]:
        race = HedgedStream(
            lambda position: self._inner.stream_range(
                key, position, stop, piece_bytes=piece_bytes, if_match=if_match
            ),
            self._latencies,
            self._counters,
        )
        return race.pieces(start)

    def _read_here(self, read: Callable[[], _Answer], late_s: float) -> _Answer:
        token = object()
        self._here[token] = time.monotonic() + late_s
        try:
            return read()
        finally:
            self._here.pop(token, None)  # a child forked inside the read has forgotten it

    def _is_any_late(self) -> bool:
        """Whether a read that runs in its caller's thread is late; it cannot say so itself."""
        now_s = time.monotonic()
        # A copy first: it is made at once, while other threads begin and end.
        is_late = any(due_s < now_s for due_s in self._here.copy().values())
        if is_late:
            self._latencies.note_late()
        return is_late

    def _handed_over(self, read: Callable[[], _Answer], late_s: float) -> _Answer:
        first = shared_daemon_pool().run(read)
        if first is None:
            return read()
        if wait([first], late_s, FIRST_COMPLETED).done or not self._latencies.allow():
            return first.result()
        second = shared_daemon_pool().run(read)
        if second is None:
            return first.result()
        self._counters.add("store_hedges")
        return self._faster(first, second)

    def _faster(self, first: Future[_Answer], second: Future[_Answer]) -> _Answer:
        """Return the response that comes first; an error counts only when both failed."""
        done = wait([first, second], return_when=FIRST_COMPLETED).done
        winner, other = (first, second) if first in done else (second, first)
        if winner.exception() is not None:
            winner = other
        answer = winner.result()
        if winner is second:
            self._counters.add("store_hedges_won")
        return answer


_stores: WeakRegistry[HedgeStore] = WeakRegistry()


def _after_fork_in_child() -> None:
    for store in _stores:
        store._forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
