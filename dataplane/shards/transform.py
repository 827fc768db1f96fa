"""Turn source arrays into what is stored, one chunk at a time, so that no array is copied whole.

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


@dataclass(frozen=True, slots=True, eq=False)
class StoredArray:
    """A source array as it will be stored.

    Attributes:
        name: its name within the sample.
        where: what to name in messages.
        source: what the converter gave.
        values: its values, or the regrouped ones.
        dtype: element type stored, little endian.
        gather: how it is reordered.
        round_bits: mantissa bits to keep, or None.
    """

    name: str
    where: str
    source: SourceArray
    values: npt.NDArray[Any]
    dtype: np.dtype[Any]
    gather: Gather
    round_bits: int | None

    def read_chunk(self, box: Sequence[slice]) -> npt.NDArray[Any]:
        """Return the stored values of a box, C-contiguous, of type `dtype`.

        Raises:
            FormatError: a value does not fit the narrower type, or is no point number.
        """
        values = self._gathered(tuple(box))
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
        if self.round_bits is not None and self.dtype.kind in "fc":
            values = round_mantissa(values, self.round_bits)
        return values

    def _gathered(self, box: tuple[slice, ...]) -> npt.NDArray[Any]:
        axis, order = self.gather.axis, self.gather.order
        if axis is None or order is None:
            return self.values[box]
        rows = order[box[axis]]
        others = tuple(slice(None) if d == axis else s for d, s in enumerate(box))
        return np.take(self.values[others], rows, axis=axis)


def plan_arrays(
    sample: SourceSample, options: WriteOptions
) -> tuple[list[StoredArray], Mapping[str, Any]]:
    """Decide how the arrays of a sample are stored.

    Returns:
        The arrays in the sample's order, and what to record among its attributes (empty when
        everything is stored as it came).

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
    if options.round_bits is not None:
        record["round_bits"] = options.round_bits
    arrays = []
    for name, source in sample.arrays.items():
        values = replaced.get(name, source.values)
        dtype = values.dtype.newbyteorder("<")
        if options.float32:
            dtype = _NARROWED.get(dtype.newbyteorder("="), dtype)
        where = f"sample {sample.key!r}"
        gather = gathers.get(name, _PLAIN)
        arrays.append(StoredArray(name, where, source, values, dtype, gather, options.round_bits))
    return arrays, record
