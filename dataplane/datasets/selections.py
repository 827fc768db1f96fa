"""Selections: the part of an array that a step needs.

A selection turns an array's shape into a *region*: for each dimension the half-open ranges
`(start, stop)` that are taken of it, laid one after another; the part is their outer product. A
crop has one range per dimension; a run of points that wraps around the end of its array has two.
Only the chunks that a region touches are fetched and decoded.

A selection that draws at random takes its randomness from `draw`, a number that follows from (seed,
epoch, sample), and so is as reproducible as the order. All arrays of a sample get the same one: a
crop of the same extents, or a run of the same points, is the same in all of them. One that is
*tiled* turns every sample into several: `draw` is then the number of the tile.

A selection knows no chunks, codecs or stores. Values: frozen, hashable, picklable; their `repr` is
the call that makes them, which messages, provenance logs and plans show. Crops are in `crops.py`,
runs of points, rows and steps in `runs.py`.
"""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from dataplane.errors import ConfigError

__all__ = [
    "ArrayForm",
    "Both",
    "Combined",
    "Range",
    "Region",
    "Selection",
    "TiledSelection",
    "WeightedSelection",
    "Whole",
    "as_count",
    "checked_region",
    "is_tiled",
    "padding_of",
    "region_shape",
    "whole",
    "whole_region",
]

Range: TypeAlias = tuple[int, int]
"""Half-open `(start, stop)`. One that reaches beyond the array is padded there."""

Region: TypeAlias = tuple[tuple[Range, ...], ...]
"""For each dimension the ranges that are taken of it, laid one after another."""


@dataclass(frozen=True, slots=True)
class ArrayForm:
    """What a selection gets to know of an array.

    Attributes:
        name: name of the array.
        shape: elements per dimension.
        dimension_names: a name per dimension; None where the dataset has none for it.
        permuted: names of the dimensions that were reordered when the sample was packed, so that
            any run of one is a uniform sample.
    """

    name: str
    shape: tuple[int, ...]
    dimension_names: tuple[str | None, ...] = ()
    permuted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.dimension_names) != len(self.shape):
            object.__setattr__(self, "dimension_names", (None,) * len(self.shape))

    def axis(self, dimension: str | int) -> int:
        """Return the number of a dimension, given by name or by number.

        Raises:
            ConfigError: the array has no such dimension.
        """
        if isinstance(dimension, int):
            if 0 <= dimension < len(self.shape):
                return dimension
        elif dimension in self.dimension_names:
            return self.dimension_names.index(dimension)
        raise ConfigError(
            f"array {self.name!r} has no dimension {dimension!r}", hint=f"it is {self.described}"
        )

    @property
    def described(self) -> str:
        """Shape with names, for messages: `[t=10, z=64, 3]`."""
        parts = [
            str(extent) if name is None else f"{name}={extent}"
            for name, extent in zip(self.dimension_names, self.shape, strict=True)
        ]
        return f"[{', '.join(parts)}]"


@runtime_checkable
class Selection(Protocol):
    """Selection of the part of an array that a step needs.

    Write your own as a frozen dataclass with these two members, and hand it to `Dataset(arrays=)`.
    """

    @property
    def is_random(self) -> bool:
        """Whether `region` depends on `draw`; plans of selections that do not are kept."""
        ...

    def region(self, array: ArrayForm, *, draw: int) -> Region:
        """Return the region of an array: for each dimension, the ranges that are taken of it.

        The *extents* of a region must not depend on `draw`, or samples could not be stacked.

        Args:
            array: the array; another sample's may have another shape.
            draw: 0 to 2^64 - 1, the same for all arrays of a sample; another in each epoch.

        Raises:
            ConfigError: the selection does not fit the array.
        """
        ...


@runtime_checkable
class TiledSelection(Selection, Protocol):
    """Selection that turns a sample into several, its *tiles*; `draw` is the number of the tile."""

    def tiles(self, array: ArrayForm) -> int:
        """Return how many tiles the array has; 1 if this one is not tiled after all."""
        ...


@runtime_checkable
class WeightedSelection(Selection, Protocol):
    """Selection that takes a uniform sample of elements, each of which stands for several."""

    def weight(self, array: ArrayForm) -> float | None:
        """Return how many elements each one that is taken stands for; None for no such sample."""
        ...


class Combined:
    """Base of selections that can be combined: `dp.steps(4) & dp.crop({"z": 64, "y": 64})`."""

    __slots__ = ()

    def __and__(self, other: Selection) -> Both:
        if not isinstance(other, Selection):
            return NotImplemented
        return Both(self, other)  # type: ignore[arg-type]  # a subclass is a selection


@dataclass(frozen=True, slots=True, repr=False)
class Whole(Combined):
    """All elements of an array. Made by `whole()`."""

    def __repr__(self) -> str:
        return "whole()"

    @property
    def is_random(self) -> bool:
        """False: the whole is the whole."""
        return False

    def region(self, array: ArrayForm, *, draw: int) -> Region:  # noqa: ARG002
        """Return the whole range of every dimension."""
        return whole_region(array.shape)


@dataclass(frozen=True, slots=True, repr=False)
class Both(Combined):
    """Two selections of different dimensions of one array. Made by `first & second`."""

    first: Selection
    second: Selection

    def __repr__(self) -> str:
        is_joined = isinstance(self.second, Both)
        return f"{self.first!r} & " + (f"({self.second!r})" if is_joined else f"{self.second!r}")

    def __post_init__(self) -> None:
        if is_tiled(self.first) and is_tiled(self.second):
            raise ConfigError("two tiled selections cannot be combined")
        tiled = is_tiled(self.first) or is_tiled(self.second)
        if tiled and (self.first.is_random or self.second.is_random):
            raise ConfigError("a tiled selection cannot be combined with a random one")
        pads = [padding_of(one) for one in (self.first, self.second)]
        if None not in pads and repr(pads[0]) != repr(pads[1]):  # a NaN is like another
            raise ConfigError(
                f"one selection is padded with {pads[0]!r}, the other with {pads[1]!r}",
                hint="combined selections need the same pad=",
            )

    @property
    def is_random(self) -> bool:
        """Whether one of them is."""
        return self.first.is_random or self.second.is_random

    def region(self, array: ArrayForm, *, draw: int) -> Region:
        """Return for each dimension the ranges of the one that selects of it.

        Raises:
            ConfigError: both select of one dimension, or one does not fit.
        """
        taken = []
        first, second = (
            checked_region(one.region(array, draw=draw), array, one)
            for one in (self.first, self.second)
        )
        for axis, (of_first, of_second) in enumerate(zip(first, second, strict=True)):
            everything = ((0, array.shape[axis]),)
            if everything not in (of_first, of_second):
                raise ConfigError(
                    f"both selections of array {array.name!r} select of dimension "
                    f"{array.dimension_names[axis] or axis}: {self.first!r} and {self.second!r}"
                )
            taken.append(of_second if of_first == everything else of_first)
        return tuple(taken)

    def tiles(self, array: ArrayForm) -> int:
        """Return how many tiles the array has."""
        return math.prod(
            one.tiles(array) for one in (self.first, self.second) if isinstance(one, TiledSelection)
        )

    def weight(self, array: ArrayForm) -> float | None:
        """Return how many elements each one that is taken stands for; None for no such sample."""
        weights = [
            one.weight(array)
            for one in (self.first, self.second)
            if isinstance(one, WeightedSelection)
        ]
        found = [weight for weight in weights if weight is not None]
        return math.prod(found) if found else None

    @property
    def pad(self) -> float | None:
        """What stands for elements beyond the array; None where there are to be none."""
        first = padding_of(self.first)
        return padding_of(self.second) if first is None else first


def whole() -> Whole:
    """Select all elements of an array.

    Example:
        >>> whole().region(ArrayForm("a", (2, 3)), draw=0)
        (((0, 2),), ((0, 3),))
    """
    return Whole()


def whole_region(shape: Sequence[int]) -> Region:
    """Return the region of all elements of an array of a shape."""
    return tuple(((0, extent),) for extent in shape)


def is_tiled(selection: Selection) -> bool:
    """Whether a selection can turn a sample into several."""
    if isinstance(selection, Both):
        return is_tiled(selection.first) or is_tiled(selection.second)
    return isinstance(selection, TiledSelection) and not selection.is_random


def padding_of(selection: Selection) -> float | None:
    """Return what stands for elements beyond the array, or None where there are to be none."""
    found: float | None = getattr(selection, "pad", None)
    return found


def checked_region(region: object, array: ArrayForm, selection: Selection) -> Region:
    """Return a region as tuples of whole numbers, once it is checked: a selection may be a user's.

    Raises:
        ConfigError: it is none, or does not fit the array.
    """
    try:
        taken = tuple(
            tuple((operator.index(start), operator.index(stop)) for start, stop in ranges)
            for ranges in region  # type: ignore[attr-defined]  # asked
        )
    except (TypeError, ValueError):
        raise ConfigError(
            f"{selection!r} gives no region of array {array.name!r} but {region!r:.200}",
            hint="a region has for each dimension a tuple of ranges (start, stop)",
        ) from None
    if len(taken) != len(array.shape):
        raise ConfigError(
            f"{selection!r} gives {len(taken)} dimensions for array {array.name!r}, which has "
            f"{len(array.shape)}"
        )
    is_padded = padding_of(selection) is not None
    for axis, (ranges, extent) in enumerate(zip(taken, array.shape, strict=True)):
        for start, stop in ranges:
            if start > stop or not (is_padded or 0 <= start <= stop <= extent):
                raise ConfigError(
                    f"{selection!r} gives the range {start} to {stop} of dimension {axis} of array "
                    f"{array.name!r}, which has {extent} elements there"
                )
    return taken


def region_shape(region: Region) -> tuple[int, ...]:
    """Return the shape of a region.

    Example:
        >>> region_shape((((8, 10), (0, 3)), ((0, 3),)))
        (5, 3)
    """
    return tuple(sum(stop - start for start, stop in ranges) for ranges in region)


def as_count(what: str, number: object, least: int = 1) -> int:
    """Return a whole number of at least `least`.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(number, bool):
        with contextlib.suppress(TypeError):
            count = operator.index(number)  # type: ignore[arg-type]  # asked
            if count >= least:
                return count
    raise ConfigError(f"{what} must be a whole number from {least} on, got {number!r}")
