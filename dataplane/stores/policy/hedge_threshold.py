"""Hedge threshold: the time after which a response is late, learned from earlier ones.

Late means: later than the 99th percentile of the last responses of its kind, and than a floor. At
most one response in twenty is asked for again, so that a store which is slow as a whole is not
asked for twice as much.

Quick means: typically below a millisecond, a thousand have come, and none was late for ten minutes.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque

__all__ = ["HedgeThreshold"]

_QUANTILE = 0.99
_WINDOW = 512  # durations that are remembered, per kind
_LEARNED = 64  # before so many are known, nothing is late
_REFRESH = 32  # durations between two looks at the window
_SHARE = 0.05  # responses that may be asked for again, of all
_BURST = 8.0  # that many in a row
_QUICK_S = 0.001  # typical durations below are worth no thread of their own
_WARY_S = 600.0  # after a late response
_WARY_COUNT = 1024  # responses from the first one on


class HedgeThreshold:
    """Response times of one place, by kind, and the share that may be asked for again.

    A kind is any integer: `HedgeStore` has one per class of length, and two for streams.
    Thread-safe.
    """

    def __init__(self, floor_s: float) -> None:
        self._floor_s = floor_s
        self._lock = threading.Lock()
        self._seen: dict[int, deque[float]] = {}
        self._until_refresh: dict[int, int] = {}
        self._late_s: dict[int, float] = {}
        self._quick: set[int] = set()
        self._wary_until_s = 0.0
        self._wary_count = _WARY_COUNT
        self._allowed = 1.0

    def late_after_s(self, kind: int) -> float | None:
        """Return the time after which a response of that kind is late; None while unknown."""
        return self._late_s.get(kind)

    def is_quick(self, kind: int) -> bool:
        """Whether responses of that kind come quickly as a rule, and none was late for a while."""
        return (
            kind in self._quick and not self._wary_count and time.monotonic() >= self._wary_until_s
        )

    def renew_lock(self) -> None:
        """Make the lock anew, in a forked child: a thread of the parent may have held it."""
        self._lock = threading.Lock()

    def note_late(self) -> None:
        """Note that a response is late."""
        self._wary_until_s = time.monotonic() + _WARY_S

    def add(self, kind: int, elapsed_s: float) -> None:
        """Learn from a response."""
        if elapsed_s > self._late_s.get(kind, math.inf):
            self.note_late()
        with self._lock:
            self._wary_count = max(0, self._wary_count - 1)
            self._allowed = min(_BURST, self._allowed + _SHARE)
            seen = self._seen.setdefault(kind, deque(maxlen=_WINDOW))
            seen.append(elapsed_s)
            left = self._until_refresh.get(kind, _LEARNED) - 1
            self._until_refresh[kind] = left if left else _REFRESH
            if not left:
                ordered = sorted(seen)
                self._late_s[kind] = max(self._floor_s, ordered[int(_QUANTILE * len(ordered))])
                is_quick = ordered[len(ordered) // 2] < _QUICK_S
                (self._quick.add if is_quick else self._quick.discard)(kind)

    def allow(self) -> bool:
        """Return whether a late response may be asked for again; if so, count it."""
        self.note_late()
        with self._lock:
            if self._allowed < 1:
                return False
            self._allowed -= 1
            return True
