"""Finalizers: a call when an object dies, as `weakref.finalize` makes it, but never at exit.

Python keeps those of `weakref.finalize` in one registry and goes through it at exit, in steps that
other threads can come between: a daemon thread that makes one meanwhile has it raise, and what it
says ends a program that was all right. Here nothing is done at exit, nor afterwards, when Python
takes its modules apart; it is faster, too.

Thread-safe without a lock: each step is one of a dictionary.
"""

from __future__ import annotations

import atexit
import itertools
import weakref
from collections.abc import Callable

__all__ = ["finalize"]

_references: dict[int, weakref.ref[object]] = {}
_numbers = itertools.count()
_ended: list[bool] = []  # with something in it once the program has ended
atexit.register(_ended.append, True)


def finalize(owner: object, call: Callable[..., object], *args: object) -> Callable[[], bool]:
    """Have `call(*args)` called when `owner` dies.

    Args:
        owner: object that can be referred to weakly.
        call: function that takes no lock and does not wait (docs/locks.md); must not refer to
            `owner`.
        args: its arguments; likewise.

    Returns:
        A function that calls it off, and says whether that was in time: whether it was not called
        or called off before.

    Example:
        >>> class File: ...
        >>> file = File()
        >>> called_off = finalize(file, print, "closed")
        >>> del file
        closed
        >>> called_off()
        False
    """
    number = next(_numbers)
    references, ended = _references, _ended  # the module may be gone by then

    def take() -> bool:
        return references.pop(number, None) is not None

    def gone(_: object) -> None:
        if take() and not ended:
            call(*args)

    references[number] = weakref.ref(owner, gone)
    return take
