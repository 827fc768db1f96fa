"""Counters and logging: what happened, in numbers, for tests, the command line and metrics.

`Counters` is a flat mapping from a name to a count that only grows. Names are snake case and end in
their unit (`store_get_bytes`, `cache_wait_s`). Thread-safe; one lock, held for one addition. A
forked child goes on from its parent's counts.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Mapping

__all__ = ["Counters", "logger"]

logger = logging.getLogger("dataplane")
"""The project's logger. Libraries below `dataplane.cli` never configure it."""


class Counters:
    """Named counts that only grow, shared by threads.

    Example:
        >>> counters = Counters()
        >>> counters.add("cache_hit_bytes", 4096)
        >>> counters["cache_hit_bytes"], counters["never_seen"]
        (4096, 0)
    """

    __slots__ = ("__weakref__", "_lock", "_values")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, float] = {}
        _live.add(self)

    def add(self, name: str, amount: float = 1) -> None:
        """Add `amount` to the count `name`."""
        with self._lock:
            self._values[name] = self._values.get(name, 0) + amount

    def add_all(self, amounts: Mapping[str, float]) -> None:
        """Add several amounts under one lock."""
        with self._lock:
            for name, amount in amounts.items():
                self._values[name] = self._values.get(name, 0) + amount

    def __getitem__(self, name: str) -> float:
        with self._lock:
            return self._values.get(name, 0)

    def snapshot(self) -> dict[str, float]:
        """Return a copy of all counts, sorted by name."""
        with self._lock:
            return dict(sorted(self._values.items()))


_live: weakref.WeakSet[Counters] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """Replace the locks: a thread that held one in the parent is not here to release it."""
    for counters in list(_live):
        counters._lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
