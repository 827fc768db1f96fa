"""Summary of a dataset's arrays, per name, from the index's columns without making entries.

Works on whole columns, so that datasets of a million rows are described in a moment. The index has
been checked for structure when this runs; shapes are still what the file claims, so sizes are
computed in floating point, where they cannot wrap around. Pure functions.
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.errors import FormatError
from dataplane.shards.index import DatasetIndex
from dataplane.shards.index_added import AddedColumns
from dataplane.shards.index_columns import FIGURES, ListColumn, TextColumn, numbers, one_chunk
from dataplane.shards.index_schema import ADDED
from dataplane.shards.zarr_metadata import parse_dtype

__all__ = ["ArraySummary", "Moments", "summarise"]

_TEXTS = ("array", "dtype", "units", "codecs")
_NUMBERS = ("start", "stop", "sample_index", "nan_count", *FIGURES)
_COLUMNS = (*_TEXTS, *_NUMBERS, "shape")


@dataclass(frozen=True, slots=True)
class Moments:
    """Extremes of some values that are no NaN; mean and standard deviation of the finite ones."""

    minimum: float
    maximum: float
    mean: float
    std: float


_NOTHING = Moments(math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class ArraySummary:
    """One array name over all samples that have it.

    Attributes:
        name: name of the array.
        samples: number of samples that have it.
        dtypes: element types in use.
        shapes: smallest and largest length per dimension, one such list per number of dimensions.
        units: units in use.
        codecs: codec chains in use, by the names of their codecs.
        decoded_bytes: size of the elements.
        stored_bytes: size of the Zarr shards.
        minimum: smallest value of all that are no NaN, or None where there are no statistics; NaN
            where all are.
        maximum: largest value of all that are no NaN.
        nan_count: NaNs in all.
        mean: arithmetic mean of all finite values; NaN where there are none, or where the index
            does not tell (the first releases counted infinities in).
        std: population standard deviation of those.
        nonfinite_count: NaN and infinite values in all, or None where that is not known.
        nonfinite_samples: samples that have one.
        nonfinite_first: key of the first of these, or None.
        round_bits: mantissa bits that rounding kept, where it was asked for.
        max_error: largest absolute difference from a value of the sources, or None where the
            arrays were stored as they came.
        components: the same statistics of each component of vectors and tensors.
    """

    name: str
    samples: int
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[tuple[int, int], ...], ...]
    units: tuple[str, ...]
    codecs: tuple[str, ...]
    decoded_bytes: int
    stored_bytes: int
    minimum: float | None
    maximum: float | None
    nan_count: int
    mean: float | None = None
    std: float | None = None
    nonfinite_count: int | None = None
    nonfinite_samples: int = 0
    nonfinite_first: str | None = None
    round_bits: tuple[int, ...] = ()
    max_error: float | None = None
    components: tuple[Moments, ...] = ()


def summarise(index: DatasetIndex) -> list[ArraySummary]:
    """Describe every array name of a dataset, in order of appearance.

    Raises:
        FormatError: an element type or codec chain cannot be read.
    """
    table = index.columns([*_COLUMNS, *ADDED.names])
    columns = {name: TextColumn(table, name, "index") for name in _TEXTS}
    shape = ListColumn(table, "shape", "index")
    values = {name: numbers(table, name) for name in _NUMBERS}
    added = AddedColumns(table)
    has_stats = one_chunk(table, "nan_count").is_valid().to_numpy(zero_copy_only=False)
    itemsize = np.array(
        [parse_dtype(name, "index").itemsize for name in columns["dtype"].values], np.float64
    )
    codes = columns["array"].codes
    order = np.argsort(codes, kind="stable")
    bounds = np.flatnonzero(np.diff(codes[order], prepend=-1, append=-1))
    groups = [order[a:b] for a, b in itertools.pairwise(bounds)]
    summaries = []
    for rows in sorted(groups, key=lambda rows: int(rows[0])):
        shapes, elements = _shapes(shape, rows)
        known = rows[has_stats[rows]]
        nan_counts = values["nan_count"][known].astype(np.float64)
        others = np.maximum(nan_counts, added.nonfinite_count[known])
        figures = np.stack([values[name][known] for name in FIGURES])
        moments = _moments(figures, elements[has_stats[rows]] - others)
        if moments is None and nan_counts.any():
            moments = _NOTHING
        nonfinite = rows[added.nonfinite_count[rows] > 0]
        errors = added.max_error[rows][added.has_max_error[rows]]
        summaries.append(
            ArraySummary(
                name=columns["array"].require(int(rows[0])),
                samples=len(rows),
                dtypes=_distinct(columns["dtype"], rows),
                shapes=shapes,
                units=_distinct(columns["units"], rows),
                codecs=tuple(dict.fromkeys(map(_codec_names, _distinct(columns["codecs"], rows)))),
                decoded_bytes=int(np.dot(elements, itemsize[columns["dtype"].codes[rows]])),
                stored_bytes=int((values["stop"][rows] - values["start"][rows]).sum()),
                minimum=moments.minimum if moments else None,
                maximum=moments.maximum if moments else None,
                nan_count=int(nan_counts.sum()),
                mean=moments.mean if moments else None,
                std=moments.std if moments else None,
                nonfinite_count=int(added.nonfinite_count[rows].sum())
                if added.has_nonfinite_count[rows].all()
                else None,
                nonfinite_samples=len(nonfinite),
                nonfinite_first=index.keys[int(values["sample_index"][nonfinite[0]])]
                if len(nonfinite)
                else None,
                round_bits=tuple(int(n) for n in np.unique(added.round_bits[rows]) if n),
                max_error=float(errors.max()) if errors.size else None,
                components=_components(added, rows, elements),
            )
        )
    return summaries


def _moments(figures: npt.NDArray[np.float64], counts: npt.NDArray[np.float64]) -> Moments | None:
    """Combine min, max, mean and std (float64[4, parts]) of parts.

    Args:
        figures: statistics of the parts, NaN where a part has no such values.
        counts: number of finite values of each part, NaN where that is not known.
    """
    low, high = (row[~np.isnan(row)] for row in figures[:2])
    if not len(low):
        return None
    is_counted = counts != 0
    counts = counts[is_counted]
    _, _, mean, std = figures[:, is_counted]
    with np.errstate(invalid="ignore", over="ignore"):
        # A single part needs no weight.
        share = counts / counts.sum() if len(counts) > 1 else np.ones(len(counts))
        whole = float(np.dot(share, mean))
        variance = float(np.dot(share, std * std + (mean - whole) ** 2))
    if not len(counts):
        whole = variance = math.nan
    deviation = math.sqrt(variance) if variance >= 0 else math.nan
    return Moments(float(low.min()), float(high.max()), whole, deviation)


def _components(
    added: AddedColumns, rows: npt.NDArray[Any], elements: npt.NDArray[np.float64]
) -> tuple[Moments, ...]:
    """Combine the statistics of components where all samples have as many."""
    lengths = np.diff(added.component_bounds)[rows]
    if not lengths[0] or (lengths != lengths[0]).any():
        return ()
    places = added.component_bounds[rows][:, None] + np.arange(int(lengths[0]))
    nans = added.component_nans[places].astype(np.float64)
    figures = added.component_figures[:, places]
    # The number of infinite values of a row is known, of its components only where at most one
    # of them has any: their extremes tell.
    has_infinite = np.isinf(figures[:2]).any(axis=0)
    infinite = np.where(has_infinite, np.nan, 0.0)
    only_one = added.has_nonfinite_count[rows] & (has_infinite.sum(axis=1) == 1)
    of_row = added.nonfinite_count[rows] - nans.sum(axis=1)
    infinite = np.where(has_infinite & only_one[:, None], of_row[:, None], infinite)
    counts = elements[:, None] / lengths[0] - nans - infinite
    return tuple(
        _moments(figures[:, :, component], counts[:, component]) or _NOTHING
        for component in range(int(lengths[0]))
    )


def _shapes(
    column: ListColumn, rows: npt.NDArray[Any]
) -> tuple[tuple[tuple[tuple[int, int], ...], ...], npt.NDArray[np.float64]]:
    """Return the range of lengths per dimension, and the elements of every row."""
    lengths = column.lengths[rows]
    elements = np.ones(len(rows))
    ranges = []
    for ndim in np.unique(lengths):
        chosen = lengths == ndim
        matrix = column.matrix(rows[chosen], int(ndim))
        elements[chosen] = matrix.astype(np.float64).prod(axis=1)
        low, high = matrix.min(axis=0), matrix.max(axis=0)
        ranges.append(tuple((int(a), int(b)) for a, b in zip(low, high, strict=True)))
    return tuple(ranges), elements


def _distinct(column: TextColumn, rows: npt.NDArray[Any]) -> tuple[str, ...]:
    return tuple(column.values[code] for code in np.unique(column.codes[rows]) if code >= 0)


def _codec_names(text: str) -> str:
    """Shorten a codec chain to the names that tell chains apart: `lz4 shuffle`."""
    try:
        chain = json.loads(text)
        names = []
        for codec in chain:
            configuration = codec.get("configuration", {})
            if codec["name"] == "blosc":
                names.append(f"{configuration['cname']} {configuration['shuffle']}")
            elif codec["name"] not in {"bytes", "crc32c"}:
                names.append(str(codec["name"]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as err:
        raise FormatError(f"index: the codec chain {text[:80]!r} cannot be read") from err
    return " + ".join(names) or "none"
