"""Attributes and statistics of an index, decoded from its file when they are asked for.

A training loop needs none of them, and attributes alone can be larger than all the rest. `Records`
reads a column of one row group of the file at a time (the writer makes groups of some thousand
samples) and keeps the last few, so that reading them in order decodes each group once.

Thread-safe: what is kept is one tuple, which is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataplane.errors import FormatError
from dataplane.shards.index_added import AddedColumns
from dataplane.shards.index_columns import FIGURES, numbers, one_chunk
from dataplane.shards.index_file import IndexFile, open_parquet
from dataplane.shards.index_schema import ADDED
from dataplane.shards.model import Measured, Stats

__all__ = ["Records"]

MAX_KEPT_BYTES = 32 << 20
"""Most decoded bytes that are kept, but for the last group of each column."""

_STATS = (*FIGURES, "nan_count")


class _Texts:
    """The texts of a column of one row group."""

    def __init__(self, table: pa.Table) -> None:
        self._column = one_chunk(table, table.column_names[0])
        self.nbytes = int(self._column.nbytes)

    def get(self, row: int) -> str | None:
        """Return a text, or None."""
        value: str | None = self._column[row].as_py()
        return value


class _Measurements:
    """The statistics and further measurements of one row group."""

    def __init__(self, table: pa.Table) -> None:
        self.nbytes = int(table.nbytes)
        self._has_stats = one_chunk(table, "nan_count").is_valid().to_numpy(zero_copy_only=False)
        self._stats = [numbers(table, name) for name in _STATS]
        self._added = AddedColumns(table)

    def get(self, row: int) -> tuple[Stats | None, Measured]:
        """Return what is known of an array's values."""
        stats = None
        if self._has_stats[row]:
            minimum, maximum, mean, std, nan_count = (column[row] for column in self._stats)
            figures = (float(minimum), float(maximum), float(mean), float(std))
            stats = Stats(*figures, int(nan_count))
        return stats, self._added.measured(row)


class Records:
    """The columns of an index that no plan needs.

    Args:
        file: file of the index.
        footer: its footer.
        where: place to name in messages.
    """

    def __init__(self, file: IndexFile, footer: pq.FileMetaData, where: str) -> None:
        self._file = file
        self._footer = footer
        self._where = where
        counts = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
        self._first_rows = np.cumsum([0, *counts])
        self._names = footer.schema.to_arrow_schema().names
        self._kept: tuple[tuple[tuple[str, int], Any], ...] = ()

    def text(self, name: str, row: int) -> str | None:
        """Return a row's text, or None.

        Raises:
            FormatError: the file is damaged there.
        """
        return self._get(name, row)  # type: ignore[no-any-return]  # of _Texts

    def measurements(self, row: int) -> tuple[Stats | None, Measured]:
        """Return the statistics of a row's values, and what else is known of them.

        Raises:
            FormatError: the file is damaged there.
        """
        return self._get("", row)  # type: ignore[no-any-return]  # of _Measurements

    def tables(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """Yield columns, a row group at a time; those that the file lacks are left out.

        Raises:
            FormatError: the file is damaged.
        """
        for group in range(len(self._first_rows) - 1):
            yield self._read([group], names)
        if len(self._first_rows) == 1:
            yield self._read([], names)

    def _get(self, name: str, row: int) -> Any:
        group = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        place = row - int(self._first_rows[group])
        kept = self._kept
        for known, found in kept:
            if known == (name, group):
                return self._value(found, place)
        made: Any
        if name:
            made = _Texts(self._read([group], [name]))
        else:
            made = _Measurements(self._read([group], [*_STATS, *ADDED.names]).combine_chunks())
        total = made.nbytes
        names, again = {name}, [((name, group), made)]
        for known, found in kept:
            total += found.nbytes
            # The last of each name stays in any case: they are read in turns.
            if total <= MAX_KEPT_BYTES or known[0] not in names:
                again.append((known, found))
            names.add(known[0])
        self._kept = tuple(again)
        return self._value(made, place)

    def _value(self, kept: Any, place: int) -> Any:
        try:
            return kept.get(place)
        except UnicodeDecodeError as err:
            raise FormatError(f"{self._where}: a text is not UTF-8: {err}") from err

    def _read(self, groups: list[int], names: Sequence[str]) -> pa.Table:
        present = [name for name in names if name in self._names]
        try:
            with open_parquet(self._file, self._footer) as file:
                table = file.read_row_groups(groups, columns=present, use_threads=False)
        except (pa.ArrowException, OSError, ValueError, OverflowError) as err:
            raise FormatError(f"{self._where}: not a readable Parquet file: {err}") from err
        # A group of another length would shift all rows behind it.
        expected = sum(self._footer.row_group(group).num_rows for group in groups)
        if table.num_rows != expected:
            raise FormatError(f"{self._where}: {table.num_rows} rows where {expected} should be")
        return table
