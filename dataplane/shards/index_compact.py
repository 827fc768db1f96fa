"""Columns of an index in as little memory as they need, for reading many rows at once.

The rows of an index repeat themselves: the arrays of a sample are mostly those of the sample before
it, and numbers are small. An `IntColumn` keeps numbers in the narrowest type, or, where all samples
have the same, those of one sample: the *period* of the column. `CompactLists` has lists of numbers,
and `CompactText` texts of which few are distinct, as codes.

Immutable, so thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "CompactLists",
    "CompactText",
    "GrowingInts",
    "IntColumn",
    "Ints",
    "narrow",
    "narrow_codes",
]

Ints: TypeAlias = npt.NDArray[Any]
"""Integers of any type."""

_UNSIGNED = (np.uint8, np.uint16, np.uint32)
_SIGNED = (np.int8, np.int16, np.int32)


def narrow(values: npt.NDArray[Any]) -> Ints:
    """Return unsigned numbers in the narrowest type that holds them."""
    largest = int(values.max(initial=0))
    kind = next((kind for kind in _UNSIGNED if largest <= np.iinfo(kind).max), np.uint64)
    return values.astype(kind, copy=False)


def narrow_codes(codes: npt.NDArray[Any]) -> Ints:
    """Return codes, -1 for none, in the narrowest type that holds them."""
    largest = int(codes.max(initial=0))
    kind = next((kind for kind in _SIGNED if largest <= np.iinfo(kind).max), np.int64)
    return codes.astype(kind, copy=False)


class IntColumn:
    """A column of integers.

    Args:
        values: all values, or those of one period.
        length: number of all values.
        period: number of values that repeat themselves; 0 where they do not.
    """

    __slots__ = ("_length", "_period", "_values")

    def __init__(self, values: Ints, length: int, period: int) -> None:
        self._values = values
        self._length = length
        self._period = period

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: int) -> int:
        """Return a value; negative places count from the end."""
        if not -self._length <= place < self._length:
            raise IndexError(place)
        place %= self._length
        return int(self._values[place % self._period if self._period else place])

    @property
    def repeated(self) -> Ints | None:
        """The values that all samples have, or None where they differ."""
        return self._values if self._period else None

    def take(self, places: npt.NDArray[np.int64]) -> Ints:
        """Return the values at places of any shape."""
        return self._values[places % self._period if self._period else places]

    def all(self) -> Ints:
        """Return all values; made anew where they repeat."""
        if not self._period:
            return self._values
        return np.tile(self._values, self._length // self._period)


class GrowingInts:
    """An `IntColumn` while it is read: as long as values repeat themselves, one period of them."""

    __slots__ = ("_length", "_parts", "_pattern")

    def __init__(self) -> None:
        self._length = 0
        self._parts: list[Ints] = []
        self._pattern: Ints | None = None

    def add(self, values: Ints, period: int) -> None:
        """Append values; `period` is how many a sample has, as far as is known, or 0."""
        if not self._length and 0 < period <= len(values):
            self._pattern = values[:period].copy()
        if self._pattern is not None and not _continues(values, self._pattern, self._length):
            self._parts.append(_repeated(self._pattern, self._length))
            self._pattern = None
        if self._pattern is None:
            self._parts.append(values)
        self._length += len(values)

    def finish(self, period: int) -> IntColumn:
        """Return the column, and forget it here.

        Args:
            period: number of values of a sample where all samples have as many; otherwise 1.
        """
        pattern, self._pattern = self._pattern, None
        if pattern is not None and len(pattern) == period and not self._length % period:
            return IntColumn(pattern, self._length, period)
        if pattern is not None:
            self._parts.append(_repeated(pattern, self._length))
        values = np.concatenate(self._parts) if self._parts else np.zeros(0, np.uint8)
        self._parts = []
        if 0 < period <= len(values) and not len(values) % period:
            pattern = values[:period].copy()
            if _continues(values, pattern, 0):
                return IntColumn(pattern, len(values), period)
        return IntColumn(values, len(values), 0)


def _repeated(pattern: Ints, length: int) -> Ints:
    """Return the first `length` values of a pattern that is repeated."""
    result: Ints = np.resize(pattern, length)
    return result


def _continues(values: Ints, pattern: Ints, before: int) -> bool:
    """Whether values go on with a pattern, behind `before` values of it."""
    period = len(pattern)
    turned = np.roll(pattern, -(before % period))
    whole = len(values) - len(values) % period
    table = values[:whole].reshape(-1, period)
    # Most columns that do not repeat themselves show it at once.
    return (
        np.array_equal(values[whole:], turned[: len(values) - whole])
        and bool((table[:256] == turned).all())
        and bool((table == turned).all())
    )


class CompactLists:
    """A column of lists of numbers, as bounds and one flat column.

    Args:
        lengths: lengths of the lists.
        finish: function that makes the column of the numbers of all lists, given how many those
            of a sample are, or 0 where that varies: `GrowingInts.finish`.
    """

    __slots__ = ("_bounds", "_lengths", "flat")

    def __init__(self, lengths: IntColumn, finish: Callable[[int], IntColumn]) -> None:
        self._lengths = lengths
        repeated = lengths.repeated
        of_all = repeated if repeated is not None else lengths.all()
        bounds = np.zeros(len(of_all) + 1, np.int64)
        np.cumsum(of_all, out=bounds[1:])
        if repeated is None and bounds[-1] <= np.iinfo(np.int32).max:
            bounds = bounds.astype(np.int32)
        self._bounds: Ints = bounds
        self.flat = finish(int(bounds[-1]) if repeated is not None else 0)

    @property
    def are_repeated(self) -> bool:
        """Whether all samples have lists of the same lengths."""
        return self._lengths.repeated is not None

    def first(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return where the lists of rows begin in `flat`; the number of rows gives its end."""
        if self._lengths.repeated is None:
            return self._bounds[rows].astype(np.int64)
        turn, place = np.divmod(rows, len(self._bounds) - 1)
        result: npt.NDArray[np.int64] = turn * self._bounds[-1] + self._bounds[place]
        return result

    def lengths(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the lengths of the lists of rows."""
        return self._lengths.take(rows).astype(np.int64)

    def range(self, row: int) -> tuple[int, int]:
        """Return where the list of a row begins and ends in `flat`."""
        first = int(self.first(np.array([row]))[0])
        return first, first + self._lengths[row]

    def get(self, row: int) -> Ints:
        """Return the list of a row."""
        return self.flat.take(np.arange(*self.range(row)))


class CompactText:
    """A column of texts, few of them distinct: a code per row, -1 for none.

    Args:
        values: distinct texts.
        codes: codes of the rows.
    """

    __slots__ = ("codes", "values")

    def __init__(self, values: Sequence[str], codes: IntColumn) -> None:
        self.values = list(values)
        self.codes = codes

    def get(self, row: int) -> str | None:
        """Return a row's text, or None."""
        code = self.codes[row]
        return None if code < 0 else self.values[code]

    def require(self, row: int) -> str:
        """Return a row's text; for columns without nulls."""
        return self.values[self.codes[row]]
