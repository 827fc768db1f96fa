"""Columns of an Arrow table as NumPy views, for reading single rows quickly.

Arrow makes a Python object per value that is looked at; these keep whole columns as arrays and make
objects only for the row asked for. Text columns keep one Python string per distinct value.
Immutable, so thread-safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataplane.errors import FormatError
from dataplane.shards.index_schema import SCHEMA

__all__ = ["Keys", "ListColumn", "TextColumn", "numbers", "one_chunk"]


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


_SHOWN_KEYS = 5


class Keys(Sequence[str]):
    """The key of every sample, looked up in the dictionary column."""

    def __init__(self, text: TextColumn, first_rows: npt.NDArray[np.int64]) -> None:
        self._codes: npt.NDArray[np.int32] = text.codes[first_rows[:-1]]
        self._values: list[str] = text.values
        self._positions: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self._codes)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[str]: ...
    def __getitem__(self, i: int | slice) -> str | Sequence[str]:
        if isinstance(i, slice):
            return [self._values[code] for code in self._codes[i]]
        code: int = self._codes[i]
        return self._values[code]

    def take(self, samples: npt.NDArray[np.int64]) -> list[str]:
        """Return the keys of several samples."""
        return [self._values[code] for code in self._codes[samples].tolist()]

    def __repr__(self) -> str:
        more = ", …" if len(self) > _SHOWN_KEYS else ""
        shown = ", ".join(map(repr, self[:_SHOWN_KEYS]))
        return f"<{len(self):,} keys: {shown}{more}>"

    def position(self, key: str) -> int | None:
        """Return the position of the sample with a key, or None."""
        if self._positions is None:
            # Two threads may both make it; they make the same.
            self._positions = {self._values[code]: i for i, code in enumerate(self._codes)}
        return self._positions.get(key)


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
