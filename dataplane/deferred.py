"""Deferred cleanup: what a finalizer leaves to be done by a thread.

A finalizer (`__del__`, a callback of a weak reference, the `finally` of an abandoned generator)
runs where the last reference dies, or wherever the garbage collector happens to run: in any thread,
inside any lock that this thread holds. A finalizer that takes a lock can therefore wait for its own
thread, for ever. So no finalizer of this project takes a lock, waits, or calls code that does
(`tests/locking` checks it). Work that needs locks is put into a queue here, and the daemon thread
dp-cleanup does it soon.

`prepare` starts the thread and is called by the code that makes an object with such a finalizer:
starting a thread takes locks, so a finalizer cannot do it.

Thread-safe. `defer` is reentrant, because `SimpleQueue.put` is. A forked child begins with an empty
queue: the parent does what its own objects left.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

from dataplane.daemon_thread import DaemonThread

__all__ = ["defer", "prepare"]

_log = logging.getLogger(__name__)


class _Cleanup:
    """A queue of calls, and the thread that makes them."""

    def __init__(self) -> None:
        self.calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None:
                thread = DaemonThread(self._work, name="dp-cleanup")
                thread.start()
                self._thread = thread

    def _work(self) -> None:
        while True:
            call = self.calls.get()
            try:
                call()
            except Exception:  # the boundary of this thread: the next call must be made, too
                _log.exception("a deferred cleanup failed")
            del call  # it must not keep anything alive while the next one is waited for


_cleanup = _Cleanup()


def prepare() -> None:
    """Start the cleanup thread, unless it runs.

    Raises:
        RuntimeError: the system refuses a thread.
    """
    _cleanup.start()


def defer(call: Callable[[], object]) -> None:
    """Have a call made by the cleanup thread, soon; for finalizers, so it takes no lock.

    Args:
        call: function, which must not refer to the object that is being finalized.
    """
    _cleanup.calls.put(call)


def _after_fork_in_child() -> None:
    global _cleanup  # noqa: PLW0603 - the child has neither the thread nor its work
    _cleanup = _Cleanup()


os.register_at_fork(after_in_child=_after_fork_in_child)
