"""What the users of a closed cache are told: an error, or nothing when the process ends.

At exit all caches are closed, so that the next process finds the directory left in order. Daemon
threads of the user's may still read then; an error in one of them would print a traceback as the
last word of a program that did nothing wrong. They are ended by SystemExit, which threads ignore.
"""

from __future__ import annotations

import threading

from dataplane.errors import CacheError

__all__ = ["begin_exit", "closed_error", "interrupted_error"]

_INTERRUPTED = "the cache was closed during a read"

_exit_begun = threading.Event()


def begin_exit() -> None:
    """Say that the process ends."""
    _exit_begun.set()


def closed_error() -> CacheError | SystemExit:
    """Return what to raise in this thread, which uses a closed cache."""
    if _exit_begun.is_set() and threading.current_thread() is not threading.main_thread():
        return SystemExit()
    return CacheError("the cache is closed")


def interrupted_error() -> CacheError | SystemExit:
    """Return what to raise in another thread, whose read the closing of a cache interrupts."""
    # The threads that Python waits for have ended before the exit begins.
    return SystemExit() if _exit_begun.is_set() else CacheError(_INTERRUPTED)
