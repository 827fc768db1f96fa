"""Source samples, from a converter to the writer, with their arrays in memory. Pure values.

`SourceSample` is the seam between `dataplane.pack` and this module. Names follow VTK for meshes
(`points`, `cells/connectivity`, `point_data/…`) and xarray for grids (`fields/<name>`); nothing
here depends on that, except that `point` and `cell` as the first dimension name mark the arrays
that a permutation reorders, and that an array with the attribute `index_of: "point"`, or whose last
name is `connectivity`, holds point numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.codecs import MAX_DIMS
from dataplane.errors import FormatError
from dataplane.shards.names import check_array_name, check_key

__all__ = ["SUPPORTED_DTYPES", "SourceArray", "SourceSample"]

SUPPORTED_DTYPES = frozenset(
    np.dtype(name).str
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
)
"""Element types (little endian) that every Zarr v3 reader shares."""


@dataclass(frozen=True, slots=True, eq=False)
class SourceArray:
    """An array to be packed.

    Attributes:
        values: elements; any byte order and strides, a memory map included. Not changed, and read
            once, chunk by chunk.
        dimension_names: a name per dimension, or None.
        units: physical unit (UCUM or free text), or None.
        attributes: further JSON attributes.
    """

    values: npt.NDArray[Any]
    dimension_names: tuple[str, ...] | None = None
    units: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class SourceSample:
    """A sample to be packed: a key, arrays by name, attributes.

    Example:
        >>> sample = SourceSample("case1", {"points": SourceArray(np.zeros((4, 3), "f4"))})
        >>> sample.check()
    """

    key: str
    arrays: Mapping[str, SourceArray]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse a sample that cannot be written, before any of it is.

        Raises:
            ConfigError: the key cannot be used.
            FormatError: an array's name, type or dimension names cannot be used.
        """
        check_key(self.key)
        where = f"sample {self.key!r}"
        if not self.arrays:
            raise FormatError(f"{where} has no arrays")
        for name, array in self.arrays.items():
            check_array_name(name, where)
            _check_array(name, array, where)
            for cut in range(len(name)):
                if name[cut] == "/" and name[:cut] in self.arrays:
                    raise FormatError(
                        f"{where}: {name[:cut]!r} is an array, so {name!r} cannot be inside it"
                    )


def _check_array(name: str, array: SourceArray, where: str) -> None:
    values = array.values
    if not isinstance(values, np.ndarray):
        raise FormatError(f"{where}: array {name!r} is a {type(values).__name__}, not an ndarray")
    if values.dtype.newbyteorder("<").str not in SUPPORTED_DTYPES:
        hint = "text belongs into attributes" if values.dtype.kind in "USOT" else None
        raise FormatError(
            f"{where}: array {name!r} has the type {values.dtype}, which cannot be packed",
            hint=hint or "convert it to bool, an integer, float16-64 or complex64/128",
        )
    if values.ndim > MAX_DIMS:
        raise FormatError(
            f"{where}: array {name!r} has {values.ndim} dimensions; "
            f"arrays of at most {MAX_DIMS} can be read",
            hint="reshape it, so that dimensions that are used together become one",
        )
    names = array.dimension_names
    if names is not None and len(names) != values.ndim:
        raise FormatError(
            f"{where}: array {name!r} has {values.ndim} dimensions and {len(names)} names for them"
        )
