"""Aborts of a read by another thread, and a watchdog that says which reads are late.

A thread that waits in a system call cannot turn to something else. So a read that may be overtaken
runs inside an `AbortScope`; what it waits for (a socket) is attached to the scope, and the thread
that has a better answer shuts it down. Only clients that wait for sockets of ours can do that; they
say so (`can_abort`).

The watchdog is one daemon thread, dp-watchdog, that looks at all reads under way every few
milliseconds while there are any: a read that is in time costs two operations on a dictionary and no
wake-up.

Thread-safe. A lock of a scope is held for bookkeeping and for `shutdown`, which never waits. A
forked child starts without the thread and without reads.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

__all__ = ["AbortScope", "Aborted", "Watchdog", "current_scope", "shared_watchdog"]

_TICK_S = 0.02  # between two looks; a floor of what counts as late is ten times that
_LINGER_S = 1.0  # without reads, before the thread waits to be woken


class Aborted(Exception):
    """The read was overtaken: another thread has its answer. No failure of the store."""


class AbortScope:
    """The length of one read that may be aborted; a context manager for the thread that reads."""

    __slots__ = ("_aborted", "_before", "_lock", "_shutdown")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shutdown: Callable[[], None] | None = None
        self._aborted = False
        self._before: AbortScope | None = None

    def __enter__(self) -> Self:
        self._before = current_scope()
        _current.scope = self
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _current.scope = self._before
        self.detach()

    def attach(self, shutdown: Callable[[], None]) -> None:
        """Say how to end what the read waits for.

        Raises:
            Aborted: it was aborted before.
        """
        with self._lock:
            if self._aborted:
                raise Aborted
            self._shutdown = shutdown

    def detach(self) -> None:
        """Say that the read waits no more; what was attached is not shut down from now on."""
        with self._lock:
            self._shutdown = None

    def abort(self) -> None:
        """End the read, now or as soon as something is attached to it. Idempotent."""
        with self._lock:
            self._aborted = True
            if self._shutdown is not None:
                self._shutdown()

    @property
    def is_aborted(self) -> bool:
        """Whether it was aborted: then a failure of what was attached says nothing."""
        return self._aborted


class Watchdog:
    """Calls back once for each read that is not over after a given time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reads: dict[object, tuple[float, Callable[[], None]]] = {}
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, late_s: float, on_late: Callable[[], None]) -> object:
        """Watch a read; `on_late` runs in the watchdog's thread and must not wait.

        Returns:
            What `over` is to be told.
        """
        token = object()
        self._reads[token] = (time.monotonic() + late_s, on_late)
        if not self._wanted.is_set():
            self._wake()
        return token

    def over(self, token: object) -> None:
        """Say that a read is over; `on_late` may be running, but will not begin any more."""
        self._reads.pop(token, None)

    def _wake(self) -> None:
        with self._lock:
            self._wanted.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="dp-watchdog", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        idle_since_s = time.monotonic()
        while True:
            now_s = time.monotonic()
            # A copy first: copying runs no code of others, iterating may, and adds would break it.
            for token, (due_s, on_late) in self._reads.copy().items():
                idle_since_s = now_s
                if due_s <= now_s and self._reads.pop(token, None) is not None:
                    on_late()
            if now_s - idle_since_s > _LINGER_S:
                self._wanted.clear()
                if not self._reads:  # whoever adds one from now on finds the event cleared
                    self._wanted.wait()
                self._wanted.set()
                idle_since_s = time.monotonic()
            time.sleep(_TICK_S)

    def forget(self) -> None:
        """Begin anew after a fork."""
        self.__init__()  # type: ignore[misc]


_current = threading.local()
_watchdog = Watchdog()
os.register_at_fork(after_in_child=_watchdog.forget)


def current_scope() -> AbortScope | None:
    """Return the scope that this thread reads in, if any."""
    return getattr(_current, "scope", None)


def shared_watchdog() -> Watchdog:
    """Return the process's watchdog."""
    return _watchdog
