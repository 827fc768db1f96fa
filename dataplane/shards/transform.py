"""Stored arrays: source arrays transformed one chunk at a time, so that none is copied whole.

A `StoredArray` is a source array together with what the options ask for: a gather along points or
cells, renumbered connectivity, float64 to float32, rounded mantissas, little-endian order.
`read_chunk` does all of it for one inner chunk and returns the elements inside the array; padding
of edge chunks is left to the caller. Thread-safe: chunks can be read by any thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.errors import FormatError
from dataplane.shards.options import WriteOptions
from dataplane.shards.permutation import Gather, plan_permutation, renumbered
from dataplane.shards.rounding import round_mantissa
from dataplane.shards.source import SourceArray, SourceSample

__all__ = ["StoredArray", "plan_arrays"]

_NARROWED = {np.dtype("f8"): np.dtype("<f4"), np.dtype("c16"): np.dtype("<c8")}
_PLAIN = Gather()
_LABELS = "global_data/"
"""Prefix of numbers about a sample as a whole, mostly targets of training."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredArray:
    """A source array as it will be stored.

    Attributes:
        name: name within the sample.
        where: place to name in messages.
        source: array of the converter.
        values: values of the source, or the regrouped ones.
        dtype: element type stored, little endian.
        gather: reordering of the values.
        round_bits: mantissa bits to keep of its floats, or None.
    """

    name: str
    where: str
    source: SourceArray
    values: npt.NDArray[Any]
    dtype: np.dtype[Any]
    gather: Gather
    round_bits: int | None

    @property
    def is_lossy(self) -> bool:
        """Whether stored values may differ from the source's."""
        return self.round_bits is not None or self.dtype.itemsize < self.values.dtype.itemsize

    def read_chunk(self, box: Sequence[slice]) -> tuple[npt.NDArray[Any], float]:
        """Return the stored values of a box, C-contiguous, of type `dtype`.

        With them comes the largest absolute difference between one of them and the source's value.

        Raises:
            FormatError: a value does not fit the narrower type, or is no point number.
        """
        source = values = self._gathered(tuple(box))
        if self.gather.renumber is not None:
            values = renumbered(values, self.gather.renumber, self.name, self.where)
        try:
            with np.errstate(over="raise"):
                values = np.asarray(values, dtype=self.dtype, order="C")
        except FloatingPointError as err:
            raise FormatError(
                f"{self.where}: array {self.name!r} has values that float32 cannot hold",
                hint="pack it without float32",
            ) from err
        if self.round_bits is not None:
            values = round_mantissa(values, self.round_bits)
        return values, _max_error(source, values) if self.is_lossy else 0.0

    def _gathered(self, box: tuple[slice, ...]) -> npt.NDArray[Any]:
        orders = dict(self.gather.orders)
        values = self.values[tuple(slice(None) if d in orders else s for d, s in enumerate(box))]
        for axis, order in orders.items():
            values = np.take(values, order[box[axis]], axis=axis)
        return values


def _max_error(source: npt.NDArray[Any], stored: npt.NDArray[Any]) -> float:
    """Return the largest absolute difference; NaNs and infinities are stored as they are."""
    wide = np.complex128 if stored.dtype.kind == "c" else np.float64
    with np.errstate(invalid="ignore"):
        differences = np.abs(np.subtract(source, stored, dtype=wide))
    # Not max(), which an infinity minus itself, a NaN, would win.
    return float(np.fmax.reduce(differences, axis=None, initial=0.0))


def plan_arrays(
    sample: SourceSample, options: WriteOptions
) -> tuple[list[StoredArray], Mapping[str, Any]]:
    """Plan the stored arrays of a sample.

    Returns:
        The arrays in the sample's order, and the record for its attributes (empty when everything
        is stored as it came).

    Raises:
        FormatError: a permutation is asked for that the sample's arrays do not allow.
    """
    record: dict[str, Any] = {}
    gathers: Mapping[str, Gather] = {}
    replaced: Mapping[str, npt.NDArray[Any]] = {}
    if options.permute_seed is not None:
        permutation = plan_permutation(sample, options.permute_seed)
        gathers, replaced = permutation.gathers, permutation.replaced
        record["permute_seed"] = options.permute_seed
        record["permuted"] = list(permutation.dimensions)
    if options.float32:
        record["float32"] = True
    arrays = []
    rounded: dict[str, int] = {}
    for name, source in sample.arrays.items():
        values = replaced.get(name, source.values)
        dtype = values.dtype.newbyteorder("<")
        if options.float32:
            dtype = _NARROWED.get(dtype.newbyteorder("="), dtype)
        where = f"sample {sample.key!r}"
        gather = gathers.get(name, _PLAIN)
        bits = _round_bits(name, values, options)
        if bits is not None:
            rounded[name] = bits
        arrays.append(StoredArray(name, where, source, values, dtype, gather, bits))
    if rounded:
        if options.round_bits is not None:
            record["round_bits"] = options.round_bits
        record["rounded"] = rounded
    return arrays, record


def _round_bits(name: str, values: npt.NDArray[Any], options: WriteOptions) -> int | None:
    """Return the mantissa bits to keep: labels and integers are stored as they are."""
    is_label = values.size <= 1 or name.startswith(_LABELS)
    return None if is_label or values.dtype.kind not in "fc" else options.rounding_of(name)[1]
