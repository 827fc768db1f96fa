"""Element types and shapes that arrays have in an index: `array_forms`, without a look per sample.

A pure function over the columns of an index.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataplane.shards.index_load import IndexColumns

__all__ = ["ArrayForm", "array_forms"]

_ROWS_AT_ONCE = 1 << 18
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""An odd number whose multiples spread over 64 bits: 2^64 divided by the golden ratio."""


@dataclass(frozen=True, slots=True)
class ArrayForm:
    """What an array is in some samples.

    Attributes:
        dtype: element type, as the index names it.
        shape: elements per dimension.
        sample: first sample where it is that.
    """

    dtype: str
    shape: tuple[int, ...]
    sample: int


def array_forms(columns: IndexColumns) -> dict[str, list[ArrayForm]]:
    """Return the forms of each array, by its name, in order of their first samples."""
    found: dict[tuple[int, ...], int] = {}
    for first in range(0, _distinct_rows(columns), _ROWS_AT_ONCE):
        stop = min(first + _ROWS_AT_ONCE, _distinct_rows(columns))
        rows = np.arange(first, stop, dtype=np.int64)
        for form, row in _forms(columns, rows):
            found.setdefault(form, row)
    names, dtypes = columns.text["array"].values, columns.text["dtype"].values
    result: dict[str, list[ArrayForm]] = {}
    for (name, dtype, *shape), row in sorted(found.items(), key=lambda item: item[1]):
        sample = int(columns.rows.sample_of(np.array([row]))[0])
        result.setdefault(names[name], []).append(ArrayForm(dtypes[dtype], tuple(shape), sample))
    return result


def _distinct_rows(columns: IndexColumns) -> int:
    """Return how many rows show all forms: those of one sample, where all samples are alike."""
    codes = (columns.text["array"].codes, columns.text["dtype"].codes, columns.shape.flat)
    if columns.shape.are_repeated and all(column.repeated is not None for column in codes):
        return max(columns.rows.per_sample, 1)
    return len(columns.text["array"].codes)


def _forms(columns: IndexColumns, rows: npt.NDArray[np.int64]) -> list[tuple[tuple[int, ...], int]]:
    """Return distinct forms of rows, each with the first row that has it."""
    lengths = columns.shape.lengths(rows)
    result: list[tuple[tuple[int, ...], int]] = []
    for length in np.unique(lengths).tolist():
        same = rows[lengths == length]
        places = columns.shape.first(same)[:, None] + np.arange(length)
        table = np.empty((len(same), 2 + length), np.uint64)
        table[:, 0] = columns.text["array"].codes.take(same)
        table[:, 1] = columns.text["dtype"].codes.take(same)
        table[:, 2:] = columns.shape.flat.take(places)
        first = _first_of_distinct(table)
        result += zip(map(tuple, table[first].tolist()), same[first].tolist(), strict=True)
    return result


def _first_of_distinct(table: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    """Return the first row of each kind of equal rows.

    Rows are sorted by a digest, which is many times as fast as by all their numbers; should two
    different rows have the same digest, it is done the slow way.
    """
    digest = np.zeros(len(table), np.uint64)
    for column in table.T:
        digest = (digest ^ column) * _MULTIPLIER
        digest ^= digest >> np.uint64(29)
    _, first, of = np.unique(digest, return_index=True, return_inverse=True)
    if (table[first][of] != table).any():
        return np.unique(table, axis=0, return_index=True)[1]
    return first
