"""Hedged stream: a stream of bytes that is asked for again when its next piece is late.

The stream runs in a thread of its own, which puts its pieces into a queue, a few ahead of the
consumer. When a piece is late a second stream is begun behind the last piece that came; the one
that brings its next piece first goes on; the other is closed at its own next piece, or when the
client gives it up. An error counts only when no other stream is left. Until it is known what is
late (`hedge_threshold.py`), and when no thread is free, the consumer reads by itself.

One instance per read, used by one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from queue import Empty, SimpleQueue
from typing import TypeAlias

from dataplane.stores.base import Buffer
from dataplane.stores.daemon_pool import shared_daemon_pool
from dataplane.stores.policy.hedge_threshold import HedgeThreshold
from dataplane.telemetry import Counters

__all__ = ["HedgedStream"]

_FIRST, _NEXT = -1, -2  # kinds of responses: the first piece of a stream, and those behind it
_PIECES_AHEAD = 1

_Open: TypeAlias = Callable[[int], Generator[Buffer, None, None]]
"""Function that begins a stream at a position."""


class HedgedStream:
    """A range, read with a second stream when the first one is late.

    Args:
        open_at: function that begins a stream at a position; it ends where the range does.
        latencies: hedge threshold of this place.
        counters: counters of `store_hedges` and `store_hedges_won`.
    """

    def __init__(self, open_at: _Open, latencies: HedgeThreshold, counters: Counters) -> None:
        self._open_at = open_at
        self._latencies = latencies
        self._counters = counters
        self._arrived: SimpleQueue[_Arrival] = SimpleQueue()
        self._running: list[_StreamAttempt] = []

    def pieces(self, start: int) -> Generator[Buffer, None, None]:
        """Yield the bytes from `start` on.

        Raises:
            The errors of the streams.
        """
        known = self._latencies.late_after_s(_FIRST) is not None
        if not known or not self._begin(start):
            yield from self._read_here(start)
            return
        position, kind = start, _FIRST
        try:
            while (piece := self._next(position, kind)) is not None:
                position += memoryview(piece).nbytes
                kind = _NEXT
                yield piece
                del piece
        finally:
            for attempt in self._running:
                attempt.abandon()

    def _read_here(self, start: int) -> Generator[Buffer, None, None]:
        """Read in the consumer's own thread, and learn."""
        pieces: Generator[Buffer, None, None] = self._open_at(start)
        kind = _FIRST
        try:
            while True:
                begun_s = time.perf_counter()
                piece = next(pieces, None)
                if piece is None:
                    return
                self._latencies.add(kind, time.perf_counter() - begun_s)
                kind = _NEXT
                yield piece
                del piece
        finally:
            pieces.close()

    def _begin(self, position: int) -> bool:
        attempt = _StreamAttempt(self._arrived)
        if shared_daemon_pool().run(lambda: attempt.run(self._open_at(position))) is None:
            return False
        self._running.append(attempt)
        return True

    def _next(self, position: int, kind: int) -> Buffer | None:
        """Return the next piece, of either stream; None at the end."""
        begun_s = time.perf_counter()
        late_s = self._latencies.late_after_s(kind)
        while True:
            try:
                arrival = self._arrived.get(timeout=late_s)
            except Empty:
                late_s = None  # once per piece
                if len(self._running) == 1 and self._latencies.allow() and self._begin(position):
                    self._counters.add("store_hedges")
                continue
            attempt, piece, err = arrival
            if attempt not in self._running:
                continue  # it had lost
            if err is not None:
                self._running.remove(attempt)
                if not self._running:
                    raise err
                continue
            if len(self._running) > 1:
                self._settle(attempt)
            if piece is not None:
                self._latencies.add(kind, time.perf_counter() - max(begun_s, attempt.begun_s))
            attempt.make_room()
            return piece

    def _settle(self, winner: _StreamAttempt) -> None:
        if winner is not self._running[0]:
            self._counters.add("store_hedges_won")
        for attempt in self._running:
            if attempt is not winner:
                attempt.abandon()
        self._running = [winner]


class _StreamAttempt:
    """One stream, read in a thread of its own."""

    def __init__(self, arrived: SimpleQueue[_Arrival]) -> None:
        self.begun_s = time.perf_counter()
        self._arrived = arrived
        # A queue of permits and not a semaphore: `abandon` is called from the `finally` of a
        # generator, which the garbage collector may run, and a semaphore's release takes a lock.
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(_PIECES_AHEAD):
            self._room.put(None)
        self._abandoned = False

    def run(self, pieces: Generator[Buffer, None, None]) -> None:
        """Hand on every piece, then None or the error."""
        try:
            for piece in pieces:
                self._room.get()
                if self._abandoned:
                    return
                self._arrived.put((self, piece, None))
                del piece
            self._arrived.put((self, None, None))
        except BaseException as err:
            self._arrived.put((self, None, err))
        finally:
            pieces.close()

    def make_room(self) -> None:
        """Let the stream go on: a piece of it was taken."""
        self._room.put(None)

    def abandon(self) -> None:
        """End the stream at its next piece. Takes no lock: a finalizer may call it."""
        self._abandoned = True
        self._room.put(None)


_Arrival: TypeAlias = tuple[_StreamAttempt, Buffer | None, BaseException | None]
