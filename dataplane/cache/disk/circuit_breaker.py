"""Circuit breaker: a directory that failed is left alone, longer each time (exponential back-off).

It is tried again after a few seconds. A disk that fails again soon after its return (one that
flaps, or is full whenever others write) is left alone for twice as long each time, up to a minute:
reads do not run into it again and again. Once it has held for a while, a failure is a first one.

Thread-safe: bookkeeping of a few numbers under one lock.
"""

from __future__ import annotations

import threading
import time

__all__ = ["CircuitBreaker"]

_FIRST_S = 5.0
_LAST_S = 60.0
_HELD_S = 60.0  # a failure later than this after a return is a first one


class CircuitBreaker:
    """Circuit breaker of one directory: in use, left alone, or due to be tried again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until_s: float | None = None
        self._pause_s = _FIRST_S
        self._returned_s = -_HELD_S

    def is_on(self) -> bool:
        """Whether it failed and has not returned since."""
        return self._until_s is not None

    def is_due(self) -> bool:
        """Whether it may be tried again, if it failed."""
        until_s = self._until_s
        return until_s is None or time.monotonic() >= until_s

    def begin(self) -> None:
        """Note that the directory failed."""
        now = time.monotonic()
        with self._lock:
            if self._until_s is None:
                has_held = now - self._returned_s >= _HELD_S
                self._pause_s = _FIRST_S if has_held else min(2 * self._pause_s, _LAST_S)
            self._until_s = now + self._pause_s

    def end(self) -> None:
        """Note that it is in use again."""
        with self._lock:
            if self._until_s is not None:
                self._until_s = None
                self._returned_s = time.monotonic()
