"""The values of a packed dataset: samples, arrays, chunk tables. Pure, no I/O.

A dataset's index yields `SampleEntry` objects; each names its arrays and, per array, the place of
every inner chunk in the shard object. Readers need nothing else to turn a sample into ranged reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "MISSING_CHUNK",
    "ArrayEntry",
    "ArrayMeta",
    "Attributes",
    "Measured",
    "SampleEntry",
    "Stats",
]

Attributes: TypeAlias = Mapping[str, Any]
"""JSON values by name."""

MISSING_CHUNK = np.uint64(2**64 - 1)
"""Offset and length of an inner chunk that is not stored (all fill value).
Source: Zarr v3 sharding_indexed codec."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Statistics of one array over all its elements; NaNs are left out and counted.

    Attributes:
        minimum: smallest value, in the array's units.
        maximum: largest value.
        mean: arithmetic mean, accumulated in float64.
        std: population standard deviation.
        nan_count: number of elements that are NaN.
    """

    minimum: float
    maximum: float
    mean: float
    std: float
    nan_count: int


@dataclass(frozen=True, slots=True)
class Measured:
    """Further measurements of an array's values besides `Stats`; None where they are not known.

    Attributes:
        nonfinite_count: elements that are NaN or infinite, in either part of a complex number.
        components: statistics of each component (vectors, tensors); empty where there are none.
        round_bits: mantissa bits that rounding kept; None where nothing was rounded.
        max_error: largest absolute difference between a value of the source and the stored one, in
            the array's units; None where no lossy option was given.
    """

    nonfinite_count: int | None = None
    components: tuple[Stats, ...] = ()
    round_bits: int | None = None
    max_error: float | None = None


@dataclass(frozen=True, slots=True)
class ArrayMeta:
    """Metadata of an array, without its place.

    Attributes:
        dtype: element type, little endian.
        shape: elements per dimension; () for a scalar.
        chunk_shape: elements per dimension of one inner chunk; edge chunks are stored whole,
            padded with `fill_value`.
        codecs: the inner codec chain as in Zarr v3 metadata.
        fill_value: value of elements that are not stored.
        dimension_names: names of dimensions, or None.
        units: physical unit (UCUM or free text), or None.
        attributes: further JSON attributes of the array.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    codecs: tuple[Mapping[str, Any], ...]
    fill_value: Any = 0
    dimension_names: tuple[str, ...] | None = None
    units: str | None = None
    attributes: Attributes = field(default_factory=dict)

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """Inner chunks per dimension."""
        return tuple(-(-n // c) for n, c in zip(self.shape, self.chunk_shape, strict=True))

    @property
    def nbytes(self) -> int:
        """Decoded size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class ArrayEntry:
    """An array of a sample and the places of its inner chunks.

    Attributes:
        name: name of the array: `points`, `point_data/pressure`, …
        meta: metadata of the array.
        shard: key of the object that holds it.
        start: first byte of the array's Zarr shard within that object.
        stop: one past its last byte (shard index included).
        chunk_offsets: uint64[n_chunks], absolute in the object, C order over `meta.grid_shape`.
        chunk_nbytes: uint64[n_chunks]; both are MISSING_CHUNK for a chunk that is not stored.
        stats: statistics, or None for arrays that have none (empty, complex).
        measured: further measurements of the writer; unknown in datasets of older releases.
    """

    name: str
    meta: ArrayMeta
    shard: str
    start: int
    stop: int
    chunk_offsets: npt.NDArray[np.uint64]
    chunk_nbytes: npt.NDArray[np.uint64]
    stats: Stats | None = None
    measured: Measured = field(default_factory=Measured)


@dataclass(frozen=True, slots=True, eq=False)
class SampleEntry:
    """One sample: a key, attributes, arrays by name, and the place of its archive.

    Attributes:
        key: name of the sample, unique in the dataset, without dots.
        attributes: JSON attributes of the sample.
        arrays: arrays by name.
        shard: key of the object that holds it.
        zip_start: first byte of `KEY.zarr.zip` in that object.
        zip_stop: one past its last byte.
    """

    key: str
    attributes: Attributes
    arrays: Mapping[str, ArrayEntry]
    shard: str
    zip_start: int
    zip_stop: int
