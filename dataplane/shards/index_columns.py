"""Columns of an Arrow table as NumPy views, for looking at all rows of a column at once.

Arrow makes a Python object per value that is looked at; these keep whole columns as arrays and make
objects only for the row asked for. Text columns keep one Python string per distinct value.
Immutable, so thread-safe.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataplane.errors import FormatError
from dataplane.shards.index_schema import SCHEMA

__all__ = ["FIGURES", "ListColumn", "TextColumn", "numbers", "one_chunk"]

FIGURES = ("min", "max", "mean", "std")
"""Columns of statistics that are floating-point numbers."""


class TextColumn:
    """A dictionary-encoded text column: codes per row (-1 for null) and the distinct values."""

    __slots__ = ("_where", "codes", "values")

    def __init__(self, table: pa.Table, name: str, where: str) -> None:
        self._where = f"{where}: column {name}"
        column = one_chunk(table, name)
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        self.codes = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        self.values: list[str] = column.dictionary.to_pylist()
        if not SCHEMA.field(name).nullable and (self.codes < 0).any():
            raise FormatError(f"{self._where}: it must have no nulls")
        if len(self.codes) and int(self.codes.max()) >= len(self.values):
            raise FormatError(f"{self._where}: it refers to text that is not there")

    def get(self, row: int) -> str | None:
        """Return a row's text, or None."""
        code = self.codes[row]
        return None if code < 0 else self.values[code]

    def require(self, row: int) -> str:
        """Return a row's text; for columns without nulls."""
        code: int = self.codes[row]
        return self.values[code]


class ListColumn:
    """A column of lists of u64 as bounds per row and one flat array; rows are views of it.

    Attributes:
        bounds: int64[rows + 1], where the numbers of a row begin and end in `flat`.
        flat: uint64[n], the numbers of all rows.
    """

    __slots__ = ("bounds", "flat")

    def __init__(self, table: pa.Table, name: str, where: str) -> None:
        column = one_chunk(table, name)
        if column.null_count or column.values.null_count:
            raise FormatError(f"{where}: column {name} must have no nulls")
        self.bounds: npt.NDArray[np.int64] = column.offsets.to_numpy().astype(np.int64)
        self.flat: npt.NDArray[np.uint64] = column.values.to_numpy()

    def get(self, row: int) -> npt.NDArray[np.uint64]:
        """Return a row's numbers, as a view."""
        return self.flat[self.bounds[row] : self.bounds[row + 1]]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Number of numbers in each row."""
        result: npt.NDArray[np.int64] = np.diff(self.bounds)
        return result

    def matrix(self, rows: npt.NDArray[Any], length: int) -> npt.NDArray[np.uint64]:
        """Return several rows that all have `length` numbers, as uint64[len(rows), length]."""
        places = self.bounds[rows][:, None] + np.arange(length)
        result: npt.NDArray[np.uint64] = self.flat[places]
        return result


def one_chunk(table: pa.Table, name: str) -> Any:
    """Return a column as one contiguous Arrow array."""
    column: Any = table.column(name)
    if column.num_chunks == 1:
        return column.chunk(0)
    # An empty table has no chunks, and combining none gives none in some versions of Arrow.
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def numbers(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """Return a column of numbers; nulls become 0."""
    column = one_chunk(table, name)
    if column.null_count:
        column = column.fill_null(0)
    result: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return result
