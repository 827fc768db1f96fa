"""Counters, gauges and logging: what happened and how things stand, in numbers.

`Counters` is a flat mapping from a name to a count that only grows. Names are snake case and end in
their unit (`store_get_bytes`, `cache_wait_s`). `totals` adds up all counters that this process ever
had, those that are gone included, so it never goes back. A gauge is a number of the moment (a
queue, bytes in use); objects offer theirs with `offer_gauges`, and `gauges` adds up those of all
that are alive. Every name is explained in `dataplane.metrics`.

Thread-safe; one lock per `Counters`, held for one addition. A forked child goes on from its
parent's counts in each `Counters`, but its totals begin at zero.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import TypeVar

from dataplane.finalizers import finalize

__all__ = ["Counters", "gauges", "logger", "offer_gauges", "totals"]

OwnerT = TypeVar("OwnerT")

logger = logging.getLogger("dataplane")
"""The project's logger. Libraries below `dataplane.cli` never configure it."""


class _Counts:
    """The counts of one `Counters`, which outlive it until they are in the sum of what is gone."""

    __slots__ = ("lock", "values")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.values: dict[str, float] = {}

    def copy(self) -> dict[str, float]:
        with self.lock:
            return dict(self.values)


class Counters:
    """Named counts that only grow, shared by threads.

    Example:
        >>> counters = Counters()
        >>> counters.add("cache_hit_bytes", 4096)
        >>> counters["cache_hit_bytes"], counters["never_seen"]
        (4096, 0)
    """

    __slots__ = ("__weakref__", "_counts")

    def __init__(self) -> None:
        self._counts = _Counts()
        number = next(_numbers)
        _every[number] = self._counts
        # No lock is taken: a finalizer runs wherever the garbage collector happens to.
        finalize(self, _gone.append, number)

    def add(self, name: str, amount: float = 1) -> None:
        """Add `amount` to the count `name`."""
        counts = self._counts
        with counts.lock:
            counts.values[name] = counts.values.get(name, 0) + amount

    def add_all(self, amounts: Mapping[str, float]) -> None:
        """Add several amounts under one lock."""
        counts = self._counts
        with counts.lock:
            for name, amount in amounts.items():
                counts.values[name] = counts.values.get(name, 0) + amount

    def __getitem__(self, name: str) -> float:
        with self._counts.lock:
            return self._counts.values.get(name, 0)

    def __repr__(self) -> str:
        return f"Counters({self.snapshot()})"

    def __reduce__(self) -> tuple[object, ...]:
        return (Counters, ())  # counts belong to the process

    def snapshot(self) -> dict[str, float]:
        """Return a copy of all counts, sorted by name."""
        return dict(sorted(self._counts.copy().items()))


def totals() -> dict[str, float]:
    """Add up the counts of this process, sorted by name; none of them ever goes back."""
    with _totals_lock:
        while _gone:
            _add(_past, _every.pop(_gone.popleft()).values)
        return dict(sorted(_summed().items()))


def offer_gauges(owner: OwnerT, read: Callable[[OwnerT], Mapping[str, float]]) -> None:
    """Let `gauges` ask `read(owner)` for numbers of the moment, for as long as the owner lives.

    Args:
        owner: object that has them, kept by a weak reference.
        read: quick function that takes no lock that is held for long, and must not refer to the
            owner itself.
    """
    with _totals_lock:
        _gauges[weakref.ref(owner)] = read
        for dead in [reference for reference in _gauges if reference() is None]:
            del _gauges[dead]


def gauges() -> dict[str, float]:
    """Add up the gauges of everything that is alive in this process, sorted by name."""
    with _totals_lock:
        readers = list(_gauges.items())
    summed: dict[str, float] = {}
    for reference, read in readers:
        owner = reference()
        if owner is None:
            continue
        try:
            _add(summed, read(owner))
        except Exception:  # the boundary of measuring: it must not fail with what it measures
            logger.debug("a gauge of %r cannot be read", owner, exc_info=True)
    return dict(sorted(summed.items()))


def _add(summed: dict[str, float], amounts: Mapping[str, float]) -> None:
    for name, amount in amounts.items():
        summed[name] = summed.get(name, 0) + amount


def _summed() -> dict[str, float]:
    summed = dict(_past)
    for counts in list(_every.values()):  # one step: others are made meanwhile
        _add(summed, counts.copy())
    return summed


_numbers = itertools.count()
_every: dict[int, _Counts] = {}  # of all that live, and of those that are gone and not yet in _past
_gone: deque[int] = deque()
_totals_lock = threading.Lock()
_past: dict[str, float] = {}
_gauges: dict[weakref.ref[object], Callable[..., Mapping[str, float]]] = {}


def _after_fork_in_child() -> None:
    """Replace the locks: a thread that held one in the parent is not here to release it."""
    global _totals_lock  # noqa: PLW0603 - the parent's
    _totals_lock = threading.Lock()
    for counts in _every.values():
        counts.lock = threading.Lock()
    # What the parent counted is not this process's: it is taken off for as long as it is counted.
    _add(_past, {name: -amount for name, amount in _summed().items()})


os.register_at_fork(after_in_child=_after_fork_in_child)
