"""Channels between the stages of a pipeline: a bounded queue and a reorder buffer at once.

Items carry their number, producers may finish in any order, and takers get them strictly in order,
or each taker the numbers that are its own. A producer waits while its number is `capacity` or more
ahead of the lowest that was not taken. The holder of that number never waits, so that cannot
deadlock. A channel out of order gives out what is there, and holds `capacity` items whatever their
numbers.

Nothing is called from here while the condition is held.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

__all__ = ["Cancelled", "Channel", "ChannelTimeout", "EndOfStream", "Failure"]


class Cancelled(Exception):
    """The pipeline was closed while this thread waited."""


class EndOfStream(Exception):
    """There are no more items."""


class ChannelTimeout(Exception):
    """Nothing came in time. No TimeoutError, which an item may have failed with."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error in the place of an item."""

    error: BaseException


class Channel:
    """A bounded queue that gives items out in the order of their numbers. Thread-safe.

    Args:
        capacity: most items that a producer may be ahead of the next one to be taken.
        in_order: whether items are given out in the order of their numbers.
    """

    def __init__(self, capacity: int, *, in_order: bool = True) -> None:
        if capacity < 1:
            raise ValueError(f"a channel holds at least 1 item, got capacity {capacity}")
        self.capacity = capacity
        self._in_order = in_order
        self._condition = threading.Condition()
        self._items: dict[int, Any] = {}
        self._next: int = 0  # the lowest number that was not taken
        self._taken: set[int] = set()  # numbers above it that were
        self._end: int | None = None
        self._cancelled = False

    def put(self, number: int, item: Any) -> None:
        """Place item `number`, waiting until there is room for it.

        Raises:
            Cancelled: the channel was cancelled, or ended before `number`.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._cancelled or self._has_room_for(number))
            if self._cancelled or (self._end is not None and number >= self._end):
                raise Cancelled
            self._items[number] = item
            self._condition.notify_all()

    def get(self, timeout_s: float | None = None, *, number: int | None = None) -> tuple[int, Any]:
        """Take an item and its number: the next one, or item `number`.

        Raises:
            EndOfStream: all items have been taken, or there is no item `number`.
            Cancelled: the channel was cancelled.
            ChannelTimeout: nothing came in time.
        """
        with self._condition:
            ready = self._condition.wait_for(
                lambda: (
                    self._cancelled
                    or self._choice(number) in self._items
                    or self._is_past_end(number)
                ),
                timeout_s,
            )
            if self._cancelled:
                raise Cancelled
            if not ready:
                raise ChannelTimeout
            chosen = self._choice(number)
            if chosen not in self._items:
                raise EndOfStream
            self._taken.add(chosen)
            while self._next in self._taken:
                self._taken.remove(self._next)
                self._next += 1
            self._condition.notify_all()
            return chosen, self._items.pop(chosen)

    def end_at(self, count: int) -> None:
        """Say that there are `count` items; a smaller count said before stays."""
        with self._condition:
            self._end = count if self._end is None else min(self._end, count)
            self._condition.notify_all()

    @property
    def count(self) -> int | None:
        """Number of items, once that is known."""
        return self._end

    def cancel(self) -> None:
        """Wake all threads that wait and drop the items."""
        with self._condition:
            self._cancelled = True
            self._items.clear()
            self._condition.notify_all()

    def __len__(self) -> int:
        with self._condition:
            return len(self._items)

    def _has_room_for(self, number: int) -> bool:
        if self._in_order:
            return number < self._next + self.capacity
        return len(self._items) < self.capacity

    def _choice(self, number: int | None) -> int:
        if number is not None:
            return number
        if self._in_order or not self._items:
            return self._next
        return int(next(iter(self._items)))

    def _is_past_end(self, number: int | None) -> bool:
        if self._end is None:
            return False
        return (self._next if number is None else number) >= self._end
