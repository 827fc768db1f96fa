"""What arrays are in an index: `array_forms` and `samples_by_form`, without a look per sample.

Pure functions over the columns of an index.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataplane.shards.index_load import IndexColumns

__all__ = ["RowForm", "array_forms", "samples_by_form"]

_ROWS_AT_ONCE = 1 << 18
_TEXTS = ("array", "dtype", "dimension_names")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""An odd number whose multiples spread over 64 bits: 2^64 divided by the golden ratio."""


@dataclass(frozen=True, slots=True)
class RowForm:
    """What an array is in some samples.

    Attributes:
        dtype: element type, as the index names it.
        shape: elements per dimension.
        sample: first sample where it is that.
        dimension_names: names of the dimensions as the index has them, JSON; None for none.
    """

    dtype: str
    shape: tuple[int, ...]
    sample: int
    dimension_names: str | None = None


def array_forms(columns: IndexColumns) -> dict[str, list[RowForm]]:
    """Return the forms of each array, by its name, in order of their first samples."""
    found: dict[tuple[int, ...], int] = {}
    for first in range(0, _distinct_rows(columns), _ROWS_AT_ONCE):
        stop = min(first + _ROWS_AT_ONCE, _distinct_rows(columns))
        rows = np.arange(first, stop, dtype=np.int64)
        for form, row in _forms(columns, rows):
            found.setdefault(form, row)
    names = columns.text["array"].values
    result: dict[str, list[RowForm]] = {}
    for form, row in sorted(found.items(), key=lambda item: item[1]):
        result.setdefault(names[form[0]], []).append(_row_form(columns, row))
    return result


def samples_by_form(
    columns: IndexColumns, name: str
) -> Iterator[tuple[RowForm, npt.NDArray[np.int64]]]:
    """Yield the forms of one array, and int64[n], all samples that have each."""
    values = columns.text["array"].values
    if name not in values:
        return
    count = _distinct_rows(columns)
    rows = np.flatnonzero(columns.text["array"].codes.take(np.arange(count)) == values.index(name))
    if count < columns.rows.first(np.array([columns.rows.samples]))[0]:  # all samples are alike
        for row in rows.tolist():
            yield _row_form(columns, row), np.arange(columns.rows.samples, dtype=np.int64)
        return
    of_form: dict[tuple[int, ...], list[npt.NDArray[np.int64]]] = {}
    for same, table in _form_tables(columns, rows):
        _, of = np.unique(table, axis=0, return_inverse=True)
        order = np.argsort(of.reshape(-1), kind="stable")
        bounds = np.cumsum(np.bincount(of.reshape(-1)))[:-1]
        for group in np.split(order, bounds):
            of_form.setdefault(tuple(table[group[0]].tolist()), []).append(same[group])
    for found in of_form.values():
        of_rows = np.concatenate(found)
        yield _row_form(columns, int(of_rows[0])), columns.rows.sample_of(of_rows)


def _row_form(columns: IndexColumns, row: int) -> RowForm:
    sample = int(columns.rows.sample_of(np.array([row]))[0])
    shape = tuple(columns.shape.get(row).tolist())
    text = columns.text
    return RowForm(text["dtype"].require(row), shape, sample, text["dimension_names"].get(row))


def _distinct_rows(columns: IndexColumns) -> int:
    """Return how many rows show all forms: those of one sample, where all samples are alike."""
    codes = (*(columns.text[name].codes for name in _TEXTS), columns.shape.flat)
    if columns.shape.are_repeated and all(column.repeated is not None for column in codes):
        return max(columns.rows.per_sample, 1)
    return len(columns.text["array"].codes)


def _forms(columns: IndexColumns, rows: npt.NDArray[np.int64]) -> list[tuple[tuple[int, ...], int]]:
    """Return distinct forms of rows, each with the first row that has it."""
    result: list[tuple[tuple[int, ...], int]] = []
    for same, table in _form_tables(columns, rows):
        first = _first_of_distinct(table)
        result += zip(map(tuple, table[first].tolist()), same[first].tolist(), strict=True)
    return result


def _form_tables(
    columns: IndexColumns, rows: npt.NDArray[np.int64]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]]:
    """Yield rows of as many dimensions, and uint64[rows, n]: equal forms are equal there."""
    lengths = columns.shape.lengths(rows)
    for length in np.unique(lengths).tolist():
        same = rows[lengths == length]
        places = columns.shape.first(same)[:, None] + np.arange(length)
        table = np.empty((len(same), len(_TEXTS) + length), np.uint64)
        for at, name in enumerate(_TEXTS):
            table[:, at] = columns.text[name].codes.take(same)
        table[:, len(_TEXTS) :] = columns.shape.flat.take(places)
        yield same, table


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
