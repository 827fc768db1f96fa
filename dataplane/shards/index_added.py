"""The columns of `index.parquet` that came after the first release: each may be absent.

`AddedColumns` reads them per row, and gives the value for "not known" where a column or a value is
missing. Immutable, so thread-safe.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataplane.shards.index_columns import FIGURES, numbers, one_chunk
from dataplane.shards.index_schema import ADDED
from dataplane.shards.model import Measured, Stats

__all__ = ["AddedColumns"]


class AddedColumns:
    """The columns of `ADDED` that a table has.

    Attributes:
        nonfinite_count: uint64[rows], and `has_nonfinite_count` where it is known.
        round_bits: uint8[rows], 0 where nothing was rounded.
        max_error: float64[rows], and `has_max_error` where a lossy option was given.
        component_bounds: int64[rows + 1], bounds of each row's components.
        component_figures: float64[4, n], min, max, mean and std of all components.
        component_nans: uint64[n], number of NaNs of a component.
    """

    def __init__(self, table: pa.Table) -> None:
        rows = table.num_rows
        self.nonfinite_count, self.has_nonfinite_count = _column(table, "nonfinite_count", rows)
        self.round_bits, self._has_round_bits = _column(table, "round_bits", rows)
        self.max_error, self.has_max_error = _column(table, "max_error", rows)
        self.component_bounds: npt.NDArray[np.int64] = np.zeros(rows + 1, np.int64)
        self.component_figures: npt.NDArray[np.float64] = np.zeros((len(FIGURES), 0))
        self.component_nans: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)
        if "components" in table.column_names:
            column = one_chunk(table, "components")
            # Not the offsets of the column: those of a null may enclose values.
            lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
            np.cumsum(lengths, out=self.component_bounds[1:])
            fields = dict(zip((*FIGURES, "nan_count"), column.flatten().flatten(), strict=True))
            self.component_figures = np.stack([_filled(fields[name], np.nan) for name in FIGURES])
            self.component_nans = _filled(fields["nan_count"], 0)

    def measured(self, row: int) -> Measured:
        """Return the measured values of a row, as far as they are known."""
        start, stop = int(self.component_bounds[row]), int(self.component_bounds[row + 1])
        return Measured(
            int(self.nonfinite_count[row]) if self.has_nonfinite_count[row] else None,
            tuple(map(self._component, range(start, stop))),
            int(self.round_bits[row]) if self._has_round_bits[row] else None,
            float(self.max_error[row]) if self.has_max_error[row] else None,
        )

    def _component(self, i: int) -> Stats:
        minimum, maximum, mean, std = (float(figure) for figure in self.component_figures[:, i])
        return Stats(minimum, maximum, mean, std, int(self.component_nans[i]))


def _column(table: pa.Table, name: str, rows: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return a column of numbers with 0 for missing ones, and a mask of the others."""
    if name not in table.column_names:
        return np.zeros(rows, ADDED.field(name).type.to_pandas_dtype()), np.zeros(rows, bool)
    valid = one_chunk(table, name).is_valid().to_numpy(zero_copy_only=False)
    return numbers(table, name), valid


def _filled(column: Any, value: float) -> npt.NDArray[Any]:
    result: npt.NDArray[Any] = column.fill_null(value).to_numpy(zero_copy_only=False)
    return result
