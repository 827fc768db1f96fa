"""Weak registry: the objects of a kind that are alive now, for code that must reach each of them.

`weakref.WeakSet` will not do: while one thread goes through it, an `add` in another makes it raise.
Here `list` takes what is there in one step of the interpreter, and an object that dies, wherever
the garbage collector finds it, only takes one key out of a dictionary. No lock is taken, so
finalizers and forks cannot be stopped by one.

Thread-safe.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

__all__ = ["WeakRegistry"]

T = TypeVar("T")


class WeakRegistry(Generic[T]):
    """A collection that keeps none of its members alive.

    Example:
        >>> class Job: ...
        >>> jobs, job = WeakRegistry(), Job()
        >>> jobs.add(job)
        >>> list(jobs) == [job]
        True
        >>> del job
        >>> list(jobs)
        []
    """

    __slots__ = ("_references",)

    def __init__(self) -> None:
        # By their own addresses: that of a dead member may be a newer one's.
        self._references: dict[int, weakref.ref[T]] = {}

    def add(self, member: T) -> None:
        """Take `member` in, once, until it dies."""
        references = self._references
        reference = weakref.ref(member, lambda dead: references.pop(id(dead), None))
        references[id(reference)] = reference

    def clear(self) -> None:
        """Let all members go."""
        self._references.clear()

    def __iter__(self) -> Iterator[T]:
        """Go through those that were alive at the start and still are when their turn comes."""
        for reference in list(self._references.values()):
            member = reference()
            if member is not None:
                yield member
