"""Forms of arrays: what selections get to know of an array, in each of the samples that have it.

What was permuted stands in the attributes of a sample, which are slow to read one by one:
`Permuted` reads them once for a dataset whose selections ask.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.datasets.crops import Crop, Tiles
from dataplane.datasets.runs import Rows, Steps
from dataplane.datasets.selections import ArrayForm, Both, Selection, Whole
from dataplane.errors import FormatError
from dataplane.shards import DatasetIndex
from dataplane.shards.index_forms import RowForm
from dataplane.shards.model import ArrayEntry
from dataplane.shards.zarr_metadata import parse_dtype, parse_shape

__all__ = ["Permuted", "asks_what_was_permuted", "form_of_array", "forms_in", "samples_by_form"]

_NOTHING: tuple[str, ...] = ()


class Permuted:
    """The dimensions of each sample that were reordered when it was packed. Thread-safe.

    Args:
        index: index of the dataset.

    Raises:
        FormatError: attributes of a sample are damaged.
    """

    def __init__(self, index: DatasetIndex) -> None:
        self._kinds: list[tuple[str, ...]] = [_NOTHING]
        self._of = np.zeros(len(index), np.int32)
        known = {_NOTHING: 0}
        for table in index.column_groups(["sample_index", "sample_attributes"]):
            samples = table.column("sample_index").to_numpy()
            texts = table.column("sample_attributes")
            first = np.flatnonzero(np.diff(samples, prepend=-1))
            for sample, text in zip(samples[first], texts.take(first).to_pylist(), strict=True):
                named = _permuted(text)
                if named is None:
                    continue
                if named not in known:
                    known[named] = len(self._kinds)
                    self._kinds.append(named)
                self._of[sample] = known[named]

    def __getitem__(self, sample: int) -> tuple[str, ...]:
        return self._kinds[int(self._of[sample])]

    def kinds(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the number of what was permuted of each sample: int64[n]."""
        return self._of[samples].astype(np.int64)

    def among(self, samples: npt.NDArray[np.int64]) -> list[tuple[tuple[str, ...], int]]:
        """Return all that was permuted of samples, each time with the first of those it was."""
        kinds, first = np.unique(self._of[samples], return_index=True)
        return [
            (self._kinds[kind], int(samples[place]))
            for kind, place in zip(kinds.tolist(), first.tolist(), strict=True)
        ]


def asks_what_was_permuted(selection: Selection) -> bool:
    """Whether a selection may ask which dimensions were permuted."""
    if isinstance(selection, Both):
        return any(map(asks_what_was_permuted, (selection.first, selection.second)))
    return not isinstance(selection, (Whole, Crop, Tiles, Rows, Steps))


def form_of_array(array: ArrayEntry, permuted: tuple[str, ...] = _NOTHING) -> ArrayForm:
    """Return the form of an array of a sample."""
    meta = array.meta
    return ArrayForm(array.name, meta.shape, meta.dimension_names or (), permuted)


def forms_in(
    index: DatasetIndex, name: str, permuted: Permuted | None
) -> Iterator[tuple[np.dtype[Any], ArrayForm, int]]:
    """Yield the element types and forms that an array has in a dataset, each with a sample."""
    for form, samples in _row_forms(index, name, permuted):
        where = f"sample {index.keys[form.sample]!r}: array {name!r}"
        dtype = parse_dtype(form.dtype, where)
        shape = parse_shape(form.shape, where, "shape", minimum=0)
        names = _names(form.dimension_names)
        if permuted is None:
            yield dtype, ArrayForm(name, shape, names), form.sample
            continue
        for what, sample in permuted.among(samples):
            yield dtype, ArrayForm(name, shape, names, what), sample


def _row_forms(
    index: DatasetIndex, name: str, permuted: Permuted | None
) -> Iterator[tuple[RowForm, npt.NDArray[np.int64]]]:
    """Yield the forms of an array with samples that have them: all, where it is to be known."""
    if permuted is not None:
        yield from index.samples_by_form(name)
        return
    for form in index.array_forms().get(name, ()):
        yield form, np.array([form.sample])


def samples_by_form(
    index: DatasetIndex, name: str
) -> Iterator[tuple[ArrayForm, npt.NDArray[np.int64]]]:
    """Yield the forms of an array, and int64[n], all samples that have each."""
    for form, samples in index.samples_by_form(name):
        yield ArrayForm(name, form.shape, _names(form.dimension_names)), samples


def _names(text: str | None) -> tuple[str | None, ...]:
    return () if text is None else tuple(json.loads(text))


def _permuted(text: str | None) -> tuple[str, ...] | None:
    """Return the dimensions that attributes say were reordered, or None."""
    if text is None or '"permuted"' not in text:
        return None
    try:
        record = json.loads(text).get("dataplane")
    except (ValueError, AttributeError) as err:
        raise FormatError(f"attributes of a sample are damaged: {err}") from None
    named = record.get("permuted") if isinstance(record, Mapping) else None
    return tuple(map(str, named)) if isinstance(named, list) else None
