"""Permutation of a sample's points and cells, so that any contiguous run is a uniform sample.

One permutation for the dimension named `point`, one for `cell`, each a pure function of
`(seed, sample key, dimension, length)`:

    bits = PCG64(SeedSequence([seed, 1 for point | 2 for cell, first 8 bytes of sha256(key)]))
    order = stable argsort of length raw 64-bit outputs;   new[i] = old[order[i]]

NumPy keeps `SeedSequence` and the raw stream of `PCG64` stable, so the original order can be had
back in any later version. Changes with the order:

- every array with a dimension named `point` or `cell` is gathered along it;
- arrays of point numbers (named `connectivity` or `face_connectivity`, or with the attribute
  `index_of: "point"`) are renumbered, and negative entries, which mean "none", stay;
- ragged cells, `X/offsets` of n+1 entries beside `X/connectivity`, are regrouped.

Cells keep their order where they cannot be regrouped safely: several groups of ragged cells share
one numbering, or the group holds faces of polyhedra. An array of unknown meaning in a group of
cells might hold point numbers, so with one both points and cells stay. The sample's attributes
record what was reordered. Pure functions; nothing is copied but the order itself and ragged
connectivity.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from dataplane.errors import FormatError
from dataplane.shards.source import SourceArray, SourceSample

__all__ = ["Gather", "Order", "Permutation", "permutation_order", "plan_permutation"]

Dimension: TypeAlias = Literal["point", "cell"]
Order: TypeAlias = npt.NDArray[np.intp]
_DIMENSION_NUMBERS: Mapping[Dimension, int] = {"point": 1, "cell": 2}
_POINT_NUMBERS = frozenset({"connectivity", "face_connectivity"})
_CELL_ARRAYS = frozenset({"connectivity", "offsets", "types"})
_FACE_ARRAYS = frozenset(
    {"face_connectivity", "face_offsets", "polyhedron_to_faces", "polyhedron_offsets"}
)
"""Faces of polyhedra, as VTKHDF names them: points are renumbered, cells are not regrouped."""


@dataclass(frozen=True, slots=True, eq=False)
class Gather:
    """Reordering of one array.

    Attributes:
        orders: dimensions that are reordered, each with the order of its entries.
        renumber: new numbers of the points that its values count.
    """

    orders: tuple[tuple[int, Order], ...] = ()
    renumber: Order | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Permutation:
    """The reordering of a sample.

    Attributes:
        gathers: gathers per array name, for the arrays that change chunk by chunk.
        replaced: new values of ragged connectivity and offsets, per array name.
        dimensions: those of `point` and `cell` that were reordered.
    """

    gathers: Mapping[str, Gather]
    replaced: Mapping[str, npt.NDArray[Any]]
    dimensions: tuple[Dimension, ...]


def permutation_order(seed: int, key: str, dimension: Dimension, length: int) -> Order:
    """Return the order in which the old entries are stored: `new[i] = old[order[i]]`."""
    digest = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    entropy = [seed, _DIMENSION_NUMBERS[dimension], digest]
    raw = np.random.PCG64(np.random.SeedSequence(entropy)).random_raw(length)
    return np.argsort(raw, kind="stable")


def plan_permutation(sample: SourceSample, seed: int) -> Permutation:
    """Plan the reordering of a sample.

    Raises:
        FormatError: arrays disagree on the number of points or cells, or hold point numbers that
            do not exist.
    """
    lengths = {d: _length(sample, d) for d in _DIMENSION_NUMBERS}
    groups, understood = _cell_groups(sample)
    orders: dict[Dimension, Order] = {}
    if lengths["point"] is not None and understood:
        orders["point"] = permutation_order(seed, sample.key, "point", lengths["point"])
    cells = lengths["cell"]
    if cells is None and len(groups) == 1:
        cells = sample.arrays[f"{groups[0]}offsets"].values.shape[0] - 1
    if cells is not None and understood and _regroupable(sample, groups, cells):
        orders["cell"] = permutation_order(seed, sample.key, "cell", cells)
    replaced: dict[str, npt.NDArray[Any]] = {}
    if "cell" in orders and groups:
        replaced = _regroup(sample, groups[0], orders["cell"])
    renumber = _inverse(orders["point"]) if "point" in orders else None
    gathers: dict[str, Gather] = {}
    for name, array in sample.arrays.items():
        reordered = tuple(
            (axis, orders[dimension])
            for axis, dimension in enumerate(array.dimension_names or ())
            if dimension in orders
        )
        numbers = renumber if _holds_points(name, array) else None
        if reordered or numbers is not None:
            gathers[name] = Gather(reordered, numbers)
    return Permutation(gathers, replaced, tuple(d for d in _DIMENSION_NUMBERS if d in orders))


def renumbered(
    values: npt.NDArray[Any], renumber: Order, name: str, where: str
) -> npt.NDArray[Any]:
    """Replace point numbers by their new ones; negative ones stay.

    Raises:
        FormatError: a number is not a point.
    """
    if values.dtype.kind not in "iu":
        raise FormatError(f"{where}: array {name!r} holds point numbers as {values.dtype}")
    if values.size == 0:
        return values
    if int(values.max()) >= len(renumber):
        raise FormatError(
            f"{where}: array {name!r} refers to point {int(values.max())} of {len(renumber)}"
        )
    new = renumber[np.maximum(values, 0)].astype(values.dtype)
    return np.where(values < 0, values, new) if values.min() < 0 else new


def _holds_points(name: str, array: SourceArray) -> bool:
    last = name.rsplit("/", 1)[-1]
    return last in _POINT_NUMBERS or array.attributes.get("index_of") == "point"


def _length(sample: SourceSample, dimension: Dimension) -> int | None:
    """Return the length of a dimension, or None when no array has it."""
    found: dict[int, str] = {}
    for name, array in sample.arrays.items():
        names = array.dimension_names or ()
        if names.count(dimension) > 1:
            raise FormatError(f"sample {sample.key!r}: {name!r} has two {dimension} dimensions")
        if dimension in names:
            found.setdefault(array.values.shape[names.index(dimension)], name)
    if len(found) > 1:
        listed = ", ".join(f"{n} in {name!r}" for n, name in found.items())
        raise FormatError(
            f"sample {sample.key!r}: arrays disagree on the number of {dimension}s: {listed}",
            hint="pack it without a permutation",
        )
    return next(iter(found), None)


def _cell_groups(sample: SourceSample) -> tuple[list[str], bool]:
    """Find the groups of ragged cells, and whether everything in them is understood."""
    groups = []
    understood = True
    for name in sample.arrays:
        prefix, _, last = name.rpartition("/")
        prefix = f"{prefix}/" if prefix else ""
        if last == "connectivity" and f"{prefix}offsets" in sample.arrays:
            groups.append(prefix)
    for name, array in sample.arrays.items():
        for group in groups:
            last = name.removeprefix(group)
            if not group or not name.startswith(group) or last in _CELL_ARRAYS | _FACE_ARRAYS:
                continue
            known = "cell" in (array.dimension_names or ()) or _holds_points(name, array)
            understood = understood and known
    return groups, understood


def _regroupable(sample: SourceSample, groups: list[str], cells: int) -> bool:
    if not groups:
        return True
    if len(groups) > 1 or any(groups[0] + last in sample.arrays for last in _FACE_ARRAYS):
        return False
    offsets = sample.arrays[f"{groups[0]}offsets"].values
    connectivity = sample.arrays[f"{groups[0]}connectivity"].values
    return (
        offsets.ndim == 1
        and connectivity.ndim == 1
        and offsets.shape[0] == cells + 1
        and offsets.dtype.kind in "iu"
    )


def _regroup(sample: SourceSample, group: str, order: Order) -> dict[str, npt.NDArray[Any]]:
    """Bring ragged cells into a new order."""
    offsets = sample.arrays[f"{group}offsets"].values
    connectivity = sample.arrays[f"{group}connectivity"].values
    wide = offsets.astype(np.int64)
    sizes = np.diff(wide)
    if wide[0] != 0 or wide[-1] != connectivity.shape[0] or (sizes < 0).any():
        raise FormatError(
            f"sample {sample.key!r}: {group}offsets do not divide the {connectivity.shape[0]} "
            f"entries of {group}connectivity"
        )
    new = np.zeros_like(wide)
    np.cumsum(sizes[order], out=new[1:])
    # Entry j of the new list comes from: where its cell began, plus its place within the cell.
    shift = np.repeat(wide[:-1][order] - new[:-1], sizes[order])
    shift += np.arange(connectivity.shape[0])
    return {
        f"{group}offsets": new.astype(offsets.dtype),
        f"{group}connectivity": connectivity[shift],
    }


def _inverse(order: Order) -> Order:
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    return inverse
