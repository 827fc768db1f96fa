"""Exit of the process: whether it has begun, for objects that are still in use then.

At exit loaders and caches are ended, so that the next process finds things left in order. Daemon
threads of the user's may be in the middle of using them; an error there would print a traceback as
the last word of a program that did nothing wrong. Such a thread is ended by SystemExit, which
threads ignore. The threads that Python waits for have ended before the exit begins, so only the
main thread can still want an answer, in an exit handler of the user's.

Thread-safe.
"""

from __future__ import annotations

import threading

__all__ = ["begin", "ends_this_thread", "has_begun"]

_begun = threading.Event()


def begin() -> None:
    """Say that the process ends. Idempotent."""
    _begun.set()


def has_begun() -> bool:
    """Whether the process ends."""
    return _begun.is_set()


def ends_this_thread() -> bool:
    """Whether the process ends and the calling thread is not its main one."""
    return _begun.is_set() and threading.current_thread() is not threading.main_thread()
