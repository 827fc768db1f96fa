"""Channels between the stages of a pipeline: a bounded queue and a reorder buffer at once.

Items carry their number, producers may finish in any order, and takers get them strictly in order.
A producer waits while its number is `capacity` or more ahead of the next one to be taken. The
holder of the lowest number never waits, so that cannot deadlock.

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
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a channel holds at least 1 item, got capacity {capacity}")
        self.capacity = capacity
        self._condition = threading.Condition()
        self._items: dict[int, Any] = {}
        self._next = 0
        self._end: int | None = None
        self._cancelled = False

    def put(self, number: int, item: Any) -> None:
        """Place item `number`, waiting until it is less than `capacity` ahead.

        Raises:
            Cancelled: the channel was cancelled, or ended before `number`.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._cancelled or number < self._next + self.capacity)
            if self._cancelled or (self._end is not None and number >= self._end):
                raise Cancelled
            self._items[number] = item
            self._condition.notify_all()

    def get(self, timeout_s: float | None = None) -> tuple[int, Any]:
        """Take the next item and its number.

        Raises:
            EndOfStream: all items have been taken.
            Cancelled: the channel was cancelled.
            ChannelTimeout: nothing came in time.
        """
        with self._condition:
            ready = self._condition.wait_for(
                lambda: (
                    self._cancelled
                    or self._next in self._items
                    or (self._end is not None and self._next >= self._end)
                ),
                timeout_s,
            )
            if self._cancelled:
                raise Cancelled
            if not ready:
                raise ChannelTimeout
            if self._next not in self._items:
                raise EndOfStream
            number = self._next
            self._next += 1
            self._condition.notify_all()
            return number, self._items.pop(number)

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
