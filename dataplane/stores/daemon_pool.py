"""Daemon thread pool: each thread runs a request, so that its caller can turn to a second one.

Named dp-get-N, made when no idle one is left, up to a limit. A stalled connection does not keep a
program from ending. Thread-safe; a forked child starts without threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from dataplane.daemon_thread import DaemonThread

__all__ = ["DaemonPool", "shared_daemon_pool"]

ResultT = TypeVar("ResultT")

_MAX_THREADS = 128


class DaemonPool:
    """A pool of daemon threads that run one call at a time each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._idle = 0
        self._count = 0

    def run(self, call: Callable[[], ResultT]) -> Future[ResultT] | None:
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
        future: Future[ResultT] = Future()
        if new:
            try:
                DaemonThread(self._work, name=name).start()
            except RuntimeError:  # no more threads: the caller does it itself
                with self._lock:
                    self._count -= 1
                return None
        self._calls.put((call, future))
        return future

    def _work(self) -> None:
        while True:
            call, future = self._calls.get()
            future.set_running_or_notify_cancel()
            try:
                result = call()
            except BaseException as err:
                self._is_idle()
                future.set_exception(err)
            else:
                # Before the waiting callers go on: their next call is for this thread.
                self._is_idle()
                future.set_result(result)
                del result
            del call, future  # an idle thread must not keep a block alive

    def _is_idle(self) -> None:
        with self._lock:
            self._idle += 1

    def forget(self) -> None:
        """Start empty after a fork: the child has none of the threads."""
        self.__init__()  # type: ignore[misc]


_daemon_pool = DaemonPool()
os.register_at_fork(after_in_child=_daemon_pool.forget)


def shared_daemon_pool() -> DaemonPool:
    """Return the process's daemon pool."""
    return _daemon_pool
