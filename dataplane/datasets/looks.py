"""Looks: which of several times in an epoch it is that an order gives a sample.

Values and pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["Looked", "each_look", "joined_looks", "looks_of"]


class Looked(list[int]):
    """Numbers of an order that may give one several times.

    Attributes:
        looks: for each which look at it this is; None where each is given once.
    """

    def __init__(self, numbers: Iterable[int], looks: Sequence[int] | None = None) -> None:
        super().__init__(numbers)
        self.looks = looks

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (list(self), self.looks))


def looks_of(batch: Sequence[int]) -> Sequence[int] | None:
    """Return the looks of a batch, or None where each of its samples is given once."""
    return batch.looks if isinstance(batch, Looked) else None


def joined_looks(batches: Sequence[Sequence[int]]) -> list[int]:
    """Return the looks of batches, one after another."""
    return [look for batch in batches for look in each_look(batch)]


def each_look(batch: Sequence[int]) -> Sequence[int]:
    """Return the look of each sample of a batch: 0 where each is given once."""
    looks = looks_of(batch)
    return [0] * len(batch) if looks is None else looks
