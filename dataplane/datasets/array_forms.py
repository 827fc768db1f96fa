"""Forms of arrays: what selections get to know of an array of a sample.

Pure functions over the index, which is grouped by its columns: making an entry for each of 10^5
samples would take seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dataplane.datasets.selections import ArrayForm
from dataplane.shards import DatasetIndex
from dataplane.shards.model import ArrayEntry, SampleEntry

__all__ = ["ArrayForms", "form_of_array", "samples_of_distinct_form"]

_TEXTS = ("array", "dtype", "dimension_names")


def form_of_array(entry: SampleEntry, array: ArrayEntry) -> ArrayForm:
    """Return the form of an array of a sample."""
    names = array.meta.dimension_names
    return ArrayForm(array.name, array.meta.shape, () if names is None else names, _permuted(entry))


def samples_of_distinct_form(index: DatasetIndex) -> list[int]:
    """Return samples that together show every (array, type, shape, dimensions) of the dataset."""
    rows = np.concatenate([rows[:1] for rows in _alike(index)] or [np.empty(0, np.int64)])
    numbers = index.table.column("sample_index").to_numpy()[rows]
    return [int(number) for number in np.unique(numbers)]


class ArrayForms:
    """The forms that one array has in a dataset, each with the samples that have it.

    Iterating yields forms, and int64[n], numbers of samples, of which there is at least one.
    """

    def __init__(self, index: DatasetIndex, name: str) -> None:
        self._index = index
        self._name = name

    def __iter__(self) -> Iterator[tuple[ArrayForm, npt.NDArray[np.int64]]]:
        index = self._index
        of_rows = index.table.column("sample_index").to_numpy()
        for rows in _alike(index, self._name):
            samples = of_rows[rows].astype(np.int64)
            entry = index[int(samples[0])]
            yield form_of_array(entry, entry.arrays[self._name]), samples


def _alike(index: DatasetIndex, name: str | None = None) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the rows of the index that have one array, type, shape and dimensions: int64[n] each.

    Args:
        index: index of the dataset.
        name: array to look at; None for all.
    """
    table = index.table
    if table.num_rows == 0:
        return
    texts = np.column_stack([_codes(table.column(one)) for one in _TEXTS])
    shapes: Any = table.column("shape").combine_chunks()
    bounds = shapes.offsets.to_numpy()
    extents = shapes.values.to_numpy()
    dimensions = np.diff(bounds)
    wanted = np.ones(table.num_rows, bool)
    if name is not None:
        column = table.column("array")
        wanted = pc.equal(column.cast(pa.string()), name).combine_chunks()
        wanted = wanted.to_numpy(zero_copy_only=False)
    for count in np.unique(dimensions[wanted]):
        same = np.flatnonzero(wanted & (dimensions == count))
        places = bounds[same][:, None] + np.arange(count)
        form = np.column_stack((texts[same], extents[places].astype(np.int64)))
        of = np.unique(form, axis=0, return_inverse=True)[1].reshape(-1)
        order = np.argsort(of, kind="stable")
        yield from np.split(same[order], np.cumsum(np.bincount(of))[:-1])


def _codes(column: Any) -> npt.NDArray[np.int64]:
    """Number the distinct texts of a column; -1 where there is none."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    indices = column.combine_chunks().indices.fill_null(-1)
    codes: npt.NDArray[np.int64] = indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes


def _permuted(entry: SampleEntry) -> tuple[str, ...]:
    """Return the dimensions that were reordered when a sample was packed."""
    record = entry.attributes.get("dataplane")
    named = record.get("permuted") if isinstance(record, Mapping) else None
    return tuple(str(name) for name in named) if isinstance(named, (list, tuple)) else ()
