"""Numbering of the datasets whose selections cut samples into tiles, or look at them several times.

Pure functions over an index.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import numpy.typing as npt

from dataplane.datasets.array_forms import samples_by_form
from dataplane.datasets.numbering import Numbering
from dataplane.datasets.selections import ArrayForm, Selection, TiledSelection, is_tiled
from dataplane.errors import ConfigError
from dataplane.shards import DatasetIndex

__all__ = ["number_samples"]


def number_samples(
    index: DatasetIndex, selections: Mapping[str, Selection], samples_per_read: int
) -> Numbering:
    """Return what the numbers of a dataset stand for.

    Args:
        index: index of the dataset.
        selections: selections by array name.
        samples_per_read: looks at each sample.

    Raises:
        ConfigError: tiles of arrays of one sample are not equally many, a selection does not fit,
            or there is nothing random to look at several times.
    """
    tiled = {name: one for name, one in selections.items() if is_tiled(one)}
    if samples_per_read != 1:
        if tiled:
            raise ConfigError("samples_per_read takes random looks, and a grid has none")
        if not any(selection.is_random for selection in selections.values()):
            raise ConfigError(
                f"samples_per_read={samples_per_read} would give each sample that often: no "
                "selection of arrays= draws at random",
                hint="select with dp.crop or dp.points, for example",
            )
        return Numbering(len(index), samples_per_read)
    if not tiled:
        return Numbering(len(index))
    counts: npt.NDArray[np.int64] | None = None
    of = ""
    for name, selection in tiled.items():
        found = _counts(index, name, cast("TiledSelection", selection))
        if counts is None:
            counts, of = found, name
        elif (unequal := (found != counts) & (found > 0) & (counts > 0)).any():
            sample = int(np.flatnonzero(unequal)[0])
            raise ConfigError(
                f"the tiles of sample {index.keys[sample]!r} are {counts[sample]} of array {of!r} "
                f"and {found[sample]} of array {name!r}",
                hint="tile arrays of equal extents, or read the others whole",
            )
        else:
            counts = np.maximum(counts, found)
    assert counts is not None
    # A sample that lacks the array has a number all the same, whose reader says so.
    return Numbering.of_tiles(np.maximum(counts, 1))


def _counts(index: DatasetIndex, name: str, selection: TiledSelection) -> npt.NDArray[np.int64]:
    counts = np.zeros(len(index), np.int64)
    for form, samples in samples_by_form(index, name):
        counts[samples] = _tiles(selection, form, index.keys[int(samples[0])])
    return counts


def _tiles(selection: TiledSelection, form: ArrayForm, key: str) -> int:
    try:
        return selection.tiles(form)
    except ConfigError as err:
        raise ConfigError(f"sample {key!r}: {err.message}", hint=err.hint) from None
