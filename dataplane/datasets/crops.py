"""Crops of volumes: boxes of a fixed shape, at a random place, a given one, or at all of them.

`crop(shape, "random")` draws its place anew for each sample and epoch, each place within the array
with the same probability. The draw goes by the name of the dimension, so arrays of the same extents
are cropped alike, and so are the coordinates along one of their dimensions.

`crop(shape, "grid")` is tiled: a dataset with it has a sample for each tile, in the order of the
tiles' places, the last dimension fastest. Neighbours share `overlap` elements; the last tile along
a dimension ends with the array and shares more. `stitch` (`stitching.py`) puts results back.

Where an array is smaller than the crop, that is an error, or, with `pad`, the array lies in the
middle and the rest holds that value.
"""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from dataplane.datasets.draws import draw_below
from dataplane.datasets.selections import ArrayForm, Both, Combined, Region, as_count
from dataplane.errors import ConfigError
from dataplane.shards.chunking import SPATIAL_DIMENSIONS, TIME_DIMENSIONS, component_count

__all__ = ["Crop", "CroppedDimension", "Tiles", "crop", "cropped_dimensions", "tile_starts"]

Dimension: TypeAlias = str | int
Extents: TypeAlias = "Sequence[int] | Mapping[Dimension, int]"
Place: TypeAlias = "str | Sequence[int] | Mapping[Dimension, int]"

_POSITIONS = ("random", "center", "grid")


@dataclass(frozen=True, slots=True, repr=False)
class _Sizes:
    """Extents of a crop.

    Attributes:
        dimensions: dimensions that they are of; None for the dimensions of space, which there then
            are as many of.
        extents: elements along each.
    """

    dimensions: tuple[Dimension, ...] | None
    extents: tuple[int, ...]

    def __repr__(self) -> str:
        return self.of(self.extents)

    def of(self, numbers: tuple[int, ...]) -> str:
        """Return a number for each dimension as it is written."""
        if self.dimensions is None:
            return repr(numbers)
        return repr(dict(zip(self.dimensions, numbers, strict=True)))

    def by_axis(self, array: ArrayForm) -> dict[int, int]:
        """Return the extent for each axis that is cropped.

        Raises:
            ConfigError: the array has no such dimensions.
        """
        if self.dimensions is None:
            axes = _space(array, len(self.extents))
        else:
            axes = [array.axis(dimension) for dimension in self.dimensions]
            if len(set(axes)) != len(axes):
                raise ConfigError(f"a crop of array {array.name!r} names a dimension twice")
        return dict(zip(axes, self.extents, strict=True))


@dataclass(frozen=True, slots=True, repr=False)
class Crop(Combined):
    """One box of each array. Made by `crop`.

    Attributes:
        sizes: extents of the box.
        start: first element along each of its dimensions, "random" or "center".
        pad: value of elements beyond the array; None where there are to be none.
    """

    sizes: _Sizes
    start: str | tuple[int, ...]
    pad: float | None = None

    def __repr__(self) -> str:
        start = self.sizes.of(self.start) if isinstance(self.start, tuple) else repr(self.start)
        position = "" if self.start == "random" else f", {start}"
        return f"crop({self.sizes!r}{position}{_padding(self.pad)})"

    @property
    def is_random(self) -> bool:
        """Whether the place is drawn."""
        return self.start == "random"

    def region(self, array: ArrayForm, *, draw: int) -> Region:
        """Return the box: one range per dimension.

        Raises:
            ConfigError: the array has no such dimensions, or is smaller.
        """
        taken = [(0, extent) for extent in array.shape]
        for number, (axis, size) in enumerate(self.sizes.by_axis(array).items()):
            room = _room(array, axis, size, self.pad)
            if isinstance(self.start, tuple):
                first = _fixed(array, axis, self.start[number], size, self.pad)
            elif room < 0:
                first = -(-room // 2)
            elif self.start == "random":
                first = draw_below(room + 1, draw, array.dimension_names[axis] or axis)
            else:
                first = room // 2
            taken[axis] = (first, first + size)
        return tuple((one,) for one in taken)


@dataclass(frozen=True, slots=True, repr=False)
class Tiles(Combined):
    """All boxes that cover each array. Made by `crop(…, position="grid")`.

    Attributes:
        sizes: extents of a box.
        overlap: elements that neighbours share, along each of its dimensions.
        pad: value of elements beyond the array; None where there are to be none.
    """

    sizes: _Sizes
    overlap: tuple[int, ...]
    pad: float | None = None

    def __repr__(self) -> str:
        overlap = f", overlap={self.overlap}" if any(self.overlap) else ""
        return f"crop({self.sizes!r}, 'grid'{overlap}{_padding(self.pad)})"

    @property
    def is_random(self) -> bool:
        """False: each tile has its place."""
        return False

    def tiles(self, array: ArrayForm) -> int:
        """Return how many tiles cover the array.

        Raises:
            ConfigError: the array has no such dimensions, or is smaller.
        """
        return math.prod(len(starts) for starts in self.starts(array).values())

    def region(self, array: ArrayForm, *, draw: int) -> Region:
        """Return the box of tile number `draw`.

        Raises:
            ConfigError: the array has no such dimensions, or is smaller.
        """
        taken = [(0, extent) for extent in array.shape]
        starts = self.starts(array)
        sizes = self.sizes.by_axis(array)
        for axis in sorted(starts, reverse=True):
            draw, place = divmod(draw, len(starts[axis]))
            first = starts[axis][place]
            taken[axis] = (first, first + sizes[axis])
        return tuple((one,) for one in taken)

    def starts(self, array: ArrayForm) -> dict[int, list[int]]:
        """Return where boxes begin, by dimension.

        Raises:
            ConfigError: the array has no such dimensions, or is smaller.
        """
        found = {}
        for number, (axis, size) in enumerate(self.sizes.by_axis(array).items()):
            _room(array, axis, size, self.pad)
            found[axis] = tile_starts(array.shape[axis], size, self.overlap[number])
        return found


def crop(
    shape: Extents,
    position: Place = "random",
    *,
    overlap: int | Sequence[int] = 0,
    pad: float | None = None,
) -> Crop | Tiles:
    """Select a box of a volume; only the chunks that it touches are read.

    Args:
        shape: elements along the dimensions of space, which an array must have as many of
            (dimensions called t, time or step, and components of vectors, stay whole); or a mapping
            from dimensions, by name or number, to elements.
        position: "random": drawn for each sample and epoch; "center"; "grid": all boxes that cover
            the array, each a sample of its own; or first elements, as `shape` has extents.
        overlap: elements that neighbours of a grid share, one number, or one per dimension.
        pad: value of elements beyond the array, where it is smaller than the box or a given place
            is near its end; None refuses it.

    Raises:
        ConfigError: an argument cannot be used. Whether it fits the arrays is seen by the dataset.

    Example:
        >>> crop((2, 2), (0, 1)).region(ArrayForm("a", (4, 4, 3), ("y", "x", "c")), draw=0)
        (((0, 2),), ((1, 3),), ((0, 3),))
        >>> len(tile_starts(100, 64, overlap=8))
        2
    """
    sizes = _sizes(shape)
    if pad is not None:
        pad = _number(pad)
    if position == "grid":
        return Tiles(sizes, _overlaps(overlap, sizes), pad)
    if overlap != 0:
        raise ConfigError('crop: overlap is for position="grid"')
    if isinstance(position, str):
        if position not in _POSITIONS:
            raise ConfigError(
                f"crop: position must be {', '.join(map(repr, _POSITIONS))} or first elements, "
                f"got {position!r}"
            )
        return Crop(sizes, position, pad)
    given = _sizes(position, "position", least=0)
    if given.dimensions is not None and sizes.dimensions is not None:
        if set(given.dimensions) != set(sizes.dimensions):
            raise ConfigError(
                f"crop: shape is of dimensions {list(sizes.dimensions)}, position of "
                f"{list(given.dimensions)}"
            )
        starts = dict(zip(given.dimensions, given.extents, strict=True))
        return Crop(sizes, tuple(starts[dimension] for dimension in sizes.dimensions), pad)
    if (given.dimensions is None) != (sizes.dimensions is None) or len(given.extents) != len(
        sizes.extents
    ):
        raise ConfigError(f"crop: shape {shape!r} and position {position!r} do not go together")
    return Crop(sizes, given.extents, pad)


@dataclass(frozen=True, slots=True)
class CroppedDimension:
    """A dimension of an array that a selection crops.

    Attributes:
        crop: the selection.
        axis: number of the dimension.
        label: its name, or its number where it has none: what draws go by.
        size: elements that are taken.
        places: number of places that a box may have along it, of a grid; otherwise 1.
    """

    crop: Crop | Tiles
    axis: int
    label: str | int
    size: int
    places: int = 1


def cropped_dimensions(selection: object, array: ArrayForm) -> Iterator[CroppedDimension]:
    """Yield the dimensions that a selection crops, in the order of the array's.

    Raises:
        ConfigError: the array has no such dimensions, or is smaller.
    """
    if isinstance(selection, Both):
        yield from cropped_dimensions(selection.first, array)
        yield from cropped_dimensions(selection.second, array)
    if not isinstance(selection, (Crop, Tiles)):
        return
    places = selection.starts(array) if isinstance(selection, Tiles) else {}
    for axis, size in sorted(selection.sizes.by_axis(array).items()):
        label = array.dimension_names[axis] or axis
        yield CroppedDimension(selection, axis, label, size, len(places.get(axis, (0,))))


def tile_starts(extent: int, size: int, overlap: int = 0) -> list[int]:
    """Return where tiles of `size` begin that cover `extent` elements, the last ending with them.

    Example:
        >>> tile_starts(10, 4), tile_starts(10, 4, overlap=1), tile_starts(3, 4)
        ([0, 4, 6], [0, 3, 6], [0])
    """
    if extent <= size:
        return [-((size - extent) // 2)]
    starts = list(range(0, extent - size, size - overlap))
    return [*starts, extent - size]


def _sizes(value: object, what: str = "shape", least: int = 1) -> _Sizes:
    dimensions: tuple[Dimension, ...] | None = None
    if isinstance(value, Mapping):
        dimensions, extents = tuple(value), tuple(value.values())
        if not all(isinstance(one, (str, int)) for one in dimensions):
            raise ConfigError(f"crop: {what} needs names or numbers of dimensions, got {value!r}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        extents = tuple(value)
    else:
        raise ConfigError(
            f"crop: {what} must be a number per dimension, got {value!r}",
            hint='for example (64, 64, 64), or {"z": 64, "y": 64}',
        )
    if not extents:
        raise ConfigError(f"crop: {what} is empty")
    return _Sizes(dimensions, tuple(as_count(f"crop: {what}", one, least) for one in extents))


def _padding(pad: float | None) -> str:
    """Return the argument `pad` as it is written."""
    if pad is None:
        return ""
    is_plain = isinstance(pad, int) or math.isfinite(pad)
    return f", pad={pad!r}" if is_plain else f", pad=float('{pad}')"


def _number(pad: object) -> float:
    """Return a number: an integer as it is, which as a float could be another."""
    with contextlib.suppress(TypeError):
        return operator.index(pad)  # type: ignore[arg-type]  # asked
    try:
        return float(pad)  # type: ignore[arg-type]  # asked
    except (TypeError, ValueError):
        raise ConfigError(f"crop: pad must be a number or None, got {pad!r}") from None


def _overlaps(overlap: int | Sequence[int], sizes: _Sizes) -> tuple[int, ...]:
    count = len(sizes.extents)
    each = tuple(overlap) if isinstance(overlap, Sequence) else (overlap,) * count
    each = tuple(as_count("crop: overlap", number, least=0) for number in each)
    if len(each) != count:
        raise ConfigError(f"crop: overlap has {len(each)} numbers for {count} dimensions")
    for number, size in zip(each, sizes.extents, strict=True):
        if not 0 <= number < size:
            raise ConfigError(
                f"crop: overlap must be from 0 to {size - 1}, less than the tile, got {number}"
            )
    return each


def _space(array: ArrayForm, count: int) -> list[int]:
    """Return the dimensions of space of an array.

    Raises:
        ConfigError: there are others than `count`.
    """
    names = array.dimension_names
    axes = [axis for axis, name in enumerate(names) if name in SPATIAL_DIMENSIONS]
    if len(axes) != count:
        axes = [axis for axis, name in enumerate(names) if name not in TIME_DIMENSIONS]
    if len(axes) > count and component_count(array.shape, names):
        axes = axes[:-1]
    if len(axes) != count:
        raise ConfigError(
            f"a crop of {count} dimensions does not say which of array {array.name!r} they are, "
            f"which is {array.described}",
            hint='name or number them: dp.crop({"z": 64, "y": 64, "x": 64}) or dp.crop({0: 64})',
        )
    return axes


def _room(array: ArrayForm, axis: int, size: int, pad: float | None) -> int:
    """Return how many elements a crop leaves over; below 0 where it is padded.

    Raises:
        ConfigError: the array is smaller, and there is nothing to pad it with.
    """
    room = array.shape[axis] - size
    if room < 0 and pad is None:
        name = array.dimension_names[axis]
        raise ConfigError(
            f"a crop of {size} elements is larger than array {array.name!r} along dimension "
            f"{axis if name is None else name}: it is {array.described}",
            hint="ask for fewer, or say with pad= what stands for those beyond the array",
        )
    return room


def _fixed(array: ArrayForm, axis: int, first: int, size: int, pad: float | None) -> int:
    extent = array.shape[axis]
    if pad is None and not 0 <= first <= extent - size:
        raise ConfigError(
            f"a crop of elements {first} to {first + size} reaches beyond array {array.name!r} "
            f"along dimension {array.dimension_names[axis] or axis}: it is {array.described}",
            hint="or say with pad= what stands for those beyond the array",
        )
    return first
