"""Numbering of the datasets whose selections cut samples into tiles, or look at them several times.

Pure functions over an index.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt

from dataplane.datasets.array_forms import samples_by_form
from dataplane.datasets.crops import Tiles, cropped_dimensions
from dataplane.datasets.numbering import Numbering
from dataplane.datasets.selections import ArrayForm, Selection, TiledSelection, is_tiled
from dataplane.errors import ConfigError
from dataplane.shards import DatasetIndex

__all__ = ["number_samples"]

_Tiling: TypeAlias = "tuple[tuple[str | None, int], ...]"
"""For each tiled dimension its name and the number of tiles along it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Tilings:
    """How one array is tiled in each sample.

    Attributes:
        name: name of the array.
        counts: int64[n], tiles of each sample; 0 of one that lacks the array.
        kinds: int64[n], which of `known` each sample has; -1 for none known.
        known: tilings by grids.
    """

    name: str
    counts: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.int64]
    known: list[_Tiling]


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
    tilings: list[_Tilings] = []
    of = ""
    for name, selection in tiled.items():
        tiling = _tilings(index, name, cast("TiledSelection", selection))
        found = tiling.counts
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
        for other in tilings:
            _check_alike(index, other, tiling)
        tilings.append(tiling)
    assert counts is not None
    # A sample that lacks the array has a number all the same, whose reader says so.
    return Numbering.of_tiles(np.maximum(counts, 1))


def _tilings(index: DatasetIndex, name: str, selection: TiledSelection) -> _Tilings:
    counts = np.zeros(len(index), np.int64)
    kinds = np.full(len(index), -1)
    known: list[_Tiling] = []
    for form, samples in samples_by_form(index, name):
        counts[samples] = _tiles(selection, form, index.keys[int(samples[0])])
        tiling = tuple(
            (one.label if isinstance(one.label, str) else None, one.places)
            for one in cropped_dimensions(selection, form)
            if isinstance(one.crop, Tiles)
        )
        if tiling:
            if tiling not in known:
                known.append(tiling)
            kinds[samples] = known.index(tiling)
    return _Tilings(name, counts, kinds, known)


def _check_alike(index: DatasetIndex, first: _Tilings, second: _Tilings) -> None:
    """Refuse grids of which tiles of one number lie at different places.

    Raises:
        ConfigError: there are as many tiles along other dimensions, or in another order.
    """
    both = (first.kinds >= 0) & (second.kinds >= 0)
    kinds = np.stack([first.kinds[both], second.kinds[both]])
    pairs, at = np.unique(kinds, axis=1, return_index=True)
    for (one, other), place in zip(pairs.T.tolist(), at.tolist(), strict=True):
        of_first, of_second = first.known[one], second.known[other]
        if _is_alike(of_first, of_second):
            continue
        sample = int(np.flatnonzero(both)[place])
        raise ConfigError(
            f"the tiles of sample {index.keys[sample]!r} lie at other places in array "
            f"{second.name!r} than in array {first.name!r}: {_described(of_second)} and "
            f"{_described(of_first)}",
            hint="tile arrays of equal extents in the same order, or read the others whole",
        )


def _is_alike(first: _Tiling, second: _Tiling) -> bool:
    """Whether tiles go through two arrays in the same order, as far as names say."""
    return len(first) == len(second) and all(
        count == of_other and (name == other or name is None or other is None)
        for (name, count), (other, of_other) in zip(first, second, strict=True)
    )


def _described(tiling: _Tiling) -> str:
    return " by ".join(f"{count}{f' along {name}' if name else ''}" for name, count in tiling)


def _tiles(selection: TiledSelection, form: ArrayForm, key: str) -> int:
    try:
        return selection.tiles(form)
    except ConfigError as err:
        raise ConfigError(f"sample {key!r}: {err.message}", hint=err.hint) from None
