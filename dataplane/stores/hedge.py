"""Sends a late ranged read a second time and takes the answer that comes first.

A few of many requests to an object store take a hundred times as long as the rest: a slow disk, a
lost packet, a connection that stalls. A training step waits for the slowest of its reads, so a read
that is later than nearly all of its kind is sent again (Source: J. Dean, L. A. Barroso, "The Tail
at Scale", Communications of the ACM 56(2), 2013). Late means: later than the 99th percentile of the
last reads of about that length from that place, and than a floor. At most one read in twenty is
sent again, so that a store which is slow as a whole is not asked for twice as much.

The request runs in a thread of its own, named dp-get-N, so that its caller can turn to the second
one; a request that lost is left to end by itself. Those threads are daemons: a stalled connection
does not keep a program from ending. When all of them are busy the caller does the read itself. The
way through another thread costs some ten microseconds of Python, which reads below a few hundred
KiB from a server on the same machine can feel.

Only the request that wins is learned from, and from its own start: a store that stalls for 30 s now
and then would otherwise teach that 30 s are nothing special.

This wrapper belongs inside `limit`: a request that was given up on holds no place there. Adds to
the counters `store_hedges` and `store_hedges_won`. Thread-safe; a forked child starts without
threads.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from queue import SimpleQueue
from typing import TypeAlias

from dataplane.stores.base import Buffer, Store
from dataplane.stores.wrapper import StoreWrapper
from dataplane.telemetry import Counters

__all__ = ["HedgeStore", "Latencies"]

_Answer: TypeAlias = tuple[Buffer, float]
"""Bytes, and how long they took to come."""

_QUANTILE = 0.99
_WINDOW = 512  # durations that are remembered, per class of length
_LEARNED = 64  # before so many are known, nothing is late
_REFRESH = 32  # durations between two looks at the window
_SHARE = 0.05  # reads that may be sent again, of all
_BURST = 8.0  # that many in a row
_MAX_THREADS = 128


class Latencies:
    """How long reads of one place take, by length, and how many may be sent again. Thread-safe."""

    def __init__(self, floor_s: float) -> None:
        self._floor_s = floor_s
        self._lock = threading.Lock()
        self._seen: dict[int, deque[float]] = {}
        self._until_refresh: dict[int, int] = {}
        self._late_s: dict[int, float] = {}
        self._allowed = 1.0

    def late_after_s(self, length: int) -> float | None:
        """Return after how long a read of `length` bytes is late; None while that is unknown."""
        return self._late_s.get(length.bit_length())

    def add(self, length: int, elapsed_s: float) -> None:
        """Learn from a read."""
        kind = length.bit_length()
        with self._lock:
            self._allowed = min(_BURST, self._allowed + _SHARE)
            seen = self._seen.setdefault(kind, deque(maxlen=_WINDOW))
            seen.append(elapsed_s)
            left = self._until_refresh.get(kind, _LEARNED) - 1
            self._until_refresh[kind] = left if left else _REFRESH
            if not left:
                ordered = sorted(seen)
                self._late_s[kind] = max(self._floor_s, ordered[int(_QUANTILE * len(ordered))])

    def allow(self) -> bool:
        """Take leave to send a read again."""
        with self._lock:
            if self._allowed < 1:
                return False
            self._allowed -= 1
            return True


class HedgeStore(StoreWrapper):
    """A store whose late reads are sent again.

    Args:
        inner: the store.
        floor_s: no read is late before that.
        counters: where hedges are counted.
    """

    def __init__(self, inner: Store, floor_s: float, counters: Counters) -> None:
        super().__init__(inner)
        self._counters = counters
        self._latencies = Latencies(floor_s)

    def get_range(self, key: str, start: int, stop: int, *, if_match: str | None = None) -> Buffer:
        def read() -> _Answer:
            begun_s = time.perf_counter()
            content = self._inner.get_range(key, start, stop, if_match=if_match)
            return content, time.perf_counter() - begun_s

        length = max(stop - start, 0)
        content, elapsed_s = self._hedged(read, self._latencies.late_after_s(length))
        self._latencies.add(length, elapsed_s)
        return content

    def _hedged(self, read: Callable[[], _Answer], late_s: float | None) -> _Answer:
        first = None if late_s is None else _runners.run(read)
        if first is None:
            return read()
        try:
            return first.result(late_s)
        except TimeoutError:  # ours: a store has errors of its own
            if not self._latencies.allow():
                return first.result()
        second = _runners.run(read)
        if second is None:
            return first.result()
        self._counters.add("store_hedges")
        return self._faster(first, second)

    def _faster(self, first: Future[_Answer], second: Future[_Answer]) -> _Answer:
        """Return the answer that comes first; an error counts only when both failed."""
        done = wait([first, second], return_when=FIRST_COMPLETED).done
        winner, other = (first, second) if first in done else (second, first)
        if winner.exception() is not None:
            winner = other
        answer = winner.result()
        if winner is second:
            self._counters.add("store_hedges_won")
        return answer


class _Runners:
    """Daemon threads that run one call at a time each, made when no idle one is left."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: SimpleQueue[tuple[Callable[[], _Answer], Future[_Answer]]] = SimpleQueue()
        self._idle = 0
        self._count = 0

    def run(self, call: Callable[[], _Answer]) -> Future[_Answer] | None:
        """Run a call in a thread; None when all are busy."""
        with self._lock:
            new = self._idle == 0
            if new and self._count >= _MAX_THREADS:
                return None
            if new:
                self._count += 1
            else:
                self._idle -= 1
            name = f"dp-get-{self._count}"
        future: Future[_Answer] = Future()
        self._calls.put((call, future))
        if new:
            threading.Thread(target=self._work, name=name, daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            call, future = self._calls.get()
            future.set_running_or_notify_cancel()
            try:
                future.set_result(call())
            except BaseException as err:
                future.set_exception(err)
            del call, future  # an idle thread must not keep a block alive
            with self._lock:
                self._idle += 1

    def forget(self) -> None:
        self.__init__()  # type: ignore[misc]  # after a fork: the child has none of the threads


_runners = _Runners()
os.register_at_fork(after_in_child=_runners.forget)
