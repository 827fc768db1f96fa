"""Daemon threads: those of this project, which neither keep a program from ending nor abort it.

A daemon thread may be anywhere when the interpreter ends, also in C++ code of others: in a
transform of the user's, or where the garbage collector of Python happens to free a tensor. Before
Python 3.14 it is ended there by an unwinding that such code does not survive. A thread that is made
here waits for the end of the process instead (`native/bindings/thread_exit.cpp`).
"""

from __future__ import annotations

import atexit
import contextlib
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["DaemonThread"]


class DaemonThread(threading.Thread):
    """A daemon thread that lives through the interpreter's end. Not started yet.

    Args:
        target: what it does.
        name: name of the thread.
        args: arguments of `target`.
    """

    def __init__(
        self, target: Callable[..., object], *, name: str, args: Iterable[Any] = ()
    ) -> None:
        super().__init__(target=target, name=name, args=args, daemon=True)

    def run(self) -> None:
        """Mark the thread, and run its target."""
        with contextlib.suppress(ImportError):  # `dataplane doctor` says so, in such threads
            from dataplane import _native

            _native.outlast_interpreter()
        super().run()


def _at_exit() -> None:
    native = sys.modules.get("dataplane._native")  # without it no thread is marked
    if native is not None:
        native.process_ends()


# Registered before what uses threads, so called last, when the exit handlers have had their turn.
atexit.register(_at_exit)
