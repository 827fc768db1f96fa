"""What a dataset holds, per array name, gathered from the index's columns without making entries.

Works on whole columns, so that datasets of a million rows are described in a moment. The index has
been checked for structure when this runs; shapes are still what the file claims, so sizes are
computed in floating point, where they cannot wrap around. Pure functions.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.errors import FormatError
from dataplane.shards.index import DatasetIndex
from dataplane.shards.index_columns import ListColumn, TextColumn, numbers, one_chunk
from dataplane.shards.zarr_metadata import parse_dtype

__all__ = ["ArraySummary", "summarise"]


@dataclass(frozen=True, slots=True)
class ArraySummary:
    """One array name over all samples that have it.

    Attributes:
        name: the array's name.
        samples: how many samples have it.
        dtypes: element types in use.
        shapes: smallest and largest length per dimension, one such list per number of dimensions.
        units: units in use.
        codecs: codec chains in use, by the names of their codecs.
        decoded_bytes: size of the elements.
        stored_bytes: size of the Zarr shards.
        minimum: smallest value of all, or None where there are no statistics.
        maximum: largest value of all.
        nan_count: NaNs in all.
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


def summarise(index: DatasetIndex) -> list[ArraySummary]:
    """Describe every array name of a dataset, in order of appearance.

    Raises:
        FormatError: an element type or codec chain cannot be read.
    """
    table = index.table
    columns = {
        name: TextColumn(table, name, "index") for name in ("array", "dtype", "units", "codecs")
    }
    shape = ListColumn(table, "shape", "index")
    values = {name: numbers(table, name) for name in ("start", "stop", "min", "max", "nan_count")}
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
        low, high = values["min"][known], values["max"][known]
        known_low, known_high = low[~np.isnan(low)], high[~np.isnan(high)]
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
                minimum=float(known_low.min()) if known_low.size else None,
                maximum=float(known_high.max()) if known_high.size else None,
                nan_count=int(values["nan_count"][known].sum()),
            )
        )
    return summaries


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
    """Shorten a codec chain to what tells chains apart: `lz4 shuffle`."""
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
