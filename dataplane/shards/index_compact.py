"""Columns of an index in as little memory as they need, for reading many rows at once.

The rows of an index repeat themselves: the arrays of a sample are mostly those of the sample before
it, and numbers are small. An `IntColumn` keeps numbers in the narrowest type, or, where all samples
have the same, those of one sample: the *period* of the column. `CompactLists` has lists of numbers,
and `CompactText` texts of which few are distinct, as codes.

Immutable, so thread-safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["CompactLists", "CompactText", "IntColumn", "Ints", "narrow", "narrow_codes"]

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
        parts: parts of the column, in order; used up, to need no memory twice.
        period: number of values of a sample where all samples have as many; otherwise 1.
    """

    __slots__ = ("_length", "_period", "_values")

    def __init__(self, parts: list[Ints], period: int) -> None:
        values = np.concatenate(parts) if parts else np.zeros(0, np.uint8)
        parts.clear()
        self._length = len(values)
        self._period = 0
        self._values: Ints = values
        if period and values.size and _repeats(values, period):
            self._values, self._period = values[:period].copy(), period

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


def _repeats(values: Ints, period: int) -> bool:
    """Whether a column is its first `period` values over and over."""
    if len(values) % period:
        return False
    table = values.reshape(-1, period)
    # Most columns that do not repeat themselves show it at once.
    return bool((table[:256] == table[0]).all()) and bool((table == table[0]).all())


class CompactLists:
    """A column of lists of numbers, as bounds and one flat column.

    Args:
        lengths: lengths of the lists.
        flat: numbers of all lists, as parts; used up.
    """

    __slots__ = ("_bounds", "_lengths", "flat")

    def __init__(self, lengths: IntColumn, flat: list[Ints]) -> None:
        self._lengths = lengths
        repeated = lengths.repeated
        of_all = repeated if repeated is not None else lengths.all()
        bounds = np.zeros(len(of_all) + 1, np.int64)
        np.cumsum(of_all, out=bounds[1:])
        if repeated is None and bounds[-1] <= np.iinfo(np.int32).max:
            bounds = bounds.astype(np.int32)
        self._bounds: Ints = bounds
        self.flat = IntColumn(flat, int(bounds[-1]) if repeated is not None else 0)

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
        codes: codes of the rows, as parts; used up.
        period: as of an `IntColumn`.
    """

    __slots__ = ("codes", "values")

    def __init__(self, values: Sequence[str], codes: list[Ints], period: int) -> None:
        self.values = list(values)
        self.codes = IntColumn(codes, period)

    def get(self, row: int) -> str | None:
        """Return a row's text, or None."""
        code = self.codes[row]
        return None if code < 0 else self.values[code]

    def require(self, row: int) -> str:
        """Return a row's text; for columns without nulls."""
        return self.values[self.codes[row]]
