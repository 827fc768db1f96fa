"""Single-flight: the same work, asked for by several threads at once, is done once.

The first thread to ask for a key does the work; those that ask meanwhile wait and get its result or
its error. Nothing is remembered afterwards: caching is for the caller. Thread-safe; the lock is not
held while the work is done, so work for one key may ask for another.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Generic, TypeVar

__all__ = ["SingleFlight"]

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class SingleFlight(Generic[KeyT, ValueT]):
    """Single-flight of work by key.

    Example:
        >>> SingleFlight[str, int]().run("six", lambda: 6)
        6
    """

    __slots__ = ("_lock", "_under_way")

    def __init__(self) -> None:
        self._lock = Lock()
        self._under_way: dict[KeyT, Future[ValueT]] = {}

    def run(self, key: KeyT, work: Callable[[], ValueT]) -> ValueT:
        """Return what `work` returns, or what it returned to another thread that was first."""
        mine: Future[ValueT] = Future()
        with self._lock:
            other = self._under_way.setdefault(key, mine)
        if other is not mine:
            return other.result()
        try:
            value = work()
        except BaseException as err:
            self._land(key)
            mine.set_exception(err)
            raise
        self._land(key)
        mine.set_result(value)
        return value

    def _land(self, key: KeyT) -> None:
        with self._lock:
            del self._under_way[key]
