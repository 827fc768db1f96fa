"""Operations for `dp.dali_pipeline(ds, ops=[...])`: one definition for CPU and GPU.

Each function checks its arguments and returns a definition, a value that belongs to no dataset yet.
What an operation draws is a function of (seed, epoch, sample) and of its place in the list.
docs/gpu-pipelines.md has the table of all of them. Pure functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dataplane.datasets.views import View
from dataplane.errors import ConfigError
from dataplane.gpu.dali_arguments import (
    Axis,
    Outside,
    Range,
    axis_of,
    bounds_of_three,
    check_outside,
    number,
    numbers_of,
    probability_of,
    range_of,
    size_of,
    three_of,
)
from dataplane.gpu.dali_arrays import checked_names
from dataplane.gpu.dali_library import element_type
from dataplane.gpu.dali_points import Affine, Jitter, UnitScale
from dataplane.gpu.dali_stage import Arrays, Operation
from dataplane.gpu.dali_statistics import ArrayStatistics, dataset_statistics, statistics
from dataplane.gpu.dali_values import Cast, ChannelDrop, Noise, Normalise
from dataplane.gpu.dali_volumes import Crop, Flip, QuarterTurns, Rotate, Zoom

__all__ = [
    "Binding",
    "Definition",
    "affine",
    "cast",
    "centre_crop",
    "channel_drop",
    "flip",
    "jitter",
    "noise",
    "normalise",
    "random_crop",
    "rotate",
    "rotate90",
    "statistics",
    "unit_scale",
    "zoom",
]

_PLANES = ("yx", "zx", "zy")


@dataclass(frozen=True, slots=True)
class Binding:
    """What a definition is bound to.

    Attributes:
        arrays: arrays as they are at its place.
        view: samples of the dataset.
    """

    arrays: Arrays
    view: View


@dataclass(frozen=True, slots=True)
class Definition:
    """An operation as it was written down, before it knows the arrays.

    Attributes:
        name: name of the function that made it.
        bind: function that makes the operation, or the part of a resampling, for given arrays.
    """

    name: str
    bind: Callable[[Binding], Operation | Rotate | Zoom]


def normalise(
    *arrays: str,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    per_component: bool = False,
) -> Definition:
    """Return `(x - mean) / std` of arrays, in float32.

    Args:
        arrays: names of the arrays; all of them have the same `mean` and `std` if these are given.
        mean: mean, or one for each component; with `std` taken in the place of the dataset's own.
        std: standard deviation, likewise.
        per_component: whether the dataset's own are those of each component. Vectors that are
            turned afterwards are better left together.

    Raises:
        ConfigError: no array is named, or one of `mean` and `std` is missing.

    Example:
        >>> normalise("fields/density", "fields/velocity").name
        'normalise'
    """
    if not arrays:
        raise ConfigError("normalise: no array is named", hint='normalise("fields/pressure")')
    if (mean is None) != (std is None):
        raise ConfigError("normalise: mean and std go together", hint="give both or neither")
    given = None
    if mean is not None and std is not None:
        means, stds = numbers_of("mean", mean), numbers_of("std", std)
        if len(means) != len(stds) or min(stds) <= 0:
            raise ConfigError(f"normalise: std must be above 0, one for each mean, got {std!r}")
        given = ArrayStatistics(means, stds)

    def bind(to: Binding) -> Normalise:
        names = checked_names(arrays, to.arrays, "normalise")
        if given is not None:
            return Normalise(dict.fromkeys(names, given))
        return Normalise({
            name: dataset_statistics(to.view, name, per_component=per_component) for name in names
        })  # fmt: skip

    return Definition("normalise", bind)


def random_crop(size: int | Sequence[int]) -> Definition:
    """Return a crop of all volumes at a place that is drawn.

    Args:
        size: z, y, x extents, or one for all.

    Raises:
        ConfigError: the size is no such thing.
    """
    box = size_of(size)
    return Definition("crop", lambda _: Crop(box, is_random=True))


def centre_crop(size: int | Sequence[int]) -> Definition:
    """Return a crop of all volumes around their middle: for validation.

    Args:
        size: z, y, x extents, or one for all.

    Raises:
        ConfigError: the size is no such thing.
    """
    box = size_of(size)
    return Definition("crop", lambda _: Crop(box, is_random=False))


def flip(axes: str = "zyx", *, probability: float = 0.5) -> Definition:
    """Return flips of all volumes along each of some axes.

    Args:
        axes: axes, of z, y, x.
        probability: probability of each.

    Raises:
        ConfigError: an argument is out of range.
    """
    letters = list(axes)
    if not letters or set(letters) - set("zyx") or len(set(letters)) != len(letters):
        raise ConfigError(f"flip: axes must be some of 'zyx', got {axes!r}")
    share = probability_of("flip", probability)
    return Definition("flip", lambda _: Flip(axes, share))


def rotate90(planes: str | Sequence[str] = _PLANES, *, probability: float = 1.0) -> Definition:
    """Return turns of all volumes by right angles, exact.

    Args:
        planes: planes, of "yx" (about z), "zx" (about y) and "zy" (about x). All three give the 24
            rotations of the cube.
        probability: share of samples that may be turned.

    Raises:
        ConfigError: an argument is out of range.
    """
    given = (planes,) if isinstance(planes, str) else tuple(planes)
    known = {frozenset(plane): plane for plane in _PLANES}
    named = [known.get(frozenset(plane)) for plane in given]
    if not given or None in named:
        raise ConfigError(f"rotate90: planes must be of 'yx', 'zx' and 'zy', got {planes!r}")
    kept = tuple(sorted({plane for plane in named if plane is not None}))
    share = probability_of("rotate90", probability)
    return Definition("rotate90", lambda _: QuarterTurns(kept, share))


def rotate(
    degrees: float,
    *,
    axis: Axis = None,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    probability: float = 1.0,
    outside: Outside = "edge",
) -> Definition:
    """Return rotations of all volumes by any angle, about their centre.

    Args:
        degrees: largest angle, either way.
        axis: "x", "y", "z" or a direction; by default each sample draws one.
        spacing: z, y, x distances of voxels, where they differ.
        probability: share of samples that are turned.
        outside: what comes in from outside: the nearest voxel ("edge") or "zero".

    Raises:
        ConfigError: an argument is out of range.
    """
    angle = number("rotate: degrees", degrees, low=0.0, high=180.0)
    about = axis_of("rotate", axis)
    distances = three_of("rotate: spacing", spacing)
    if min(distances) <= 0:
        raise ConfigError(f"rotate: spacing must be above 0, got {spacing!r}")
    share = probability_of("rotate", probability)
    check_outside("rotate", outside)
    return Definition("rotate", lambda _: Rotate(angle, about, distances, share, outside))


def zoom(
    factor: Range | None = None,
    *,
    z: Range | None = None,
    y: Range | None = None,
    x: Range | None = None,
    probability: float = 1.0,
    outside: Outside = "edge",
) -> Definition:
    """Return magnifications of all volumes about their centre, at unchanged extents.

    Args:
        factor: factor of all axes, or its bounds; above 1 enlarges what is in the middle.
        z: factor of that axis in the place of `factor`, or its bounds.
        y: likewise.
        x: likewise.
        probability: share of samples that are zoomed.
        outside: what comes in from outside: the nearest voxel ("edge") or "zero".

    Raises:
        ConfigError: an argument is out of range.
    """
    if factor is None and z is None and y is None and x is None:
        raise ConfigError(
            "zoom: no factor is given", hint="zoom((0.9, 1.1)), or zoom(z=(0.8, 1.2))"
        )
    is_isotropic = z is None and y is None and x is None
    ranges = [
        range_of(
            "zoom: factor", (1.0 if factor is None else factor) if own is None else own, low=1e-3
        )
        for own in (z, y, x)
    ]
    lows, highs = bounds_of_three(ranges)
    share = probability_of("zoom", probability)
    check_outside("zoom", outside)
    return Definition("zoom", lambda _: Zoom(lows, highs, is_isotropic, share, outside))


def noise(std: Range, *, arrays: Sequence[str], probability: float = 1.0) -> Definition:
    """Return normal noise on arrays.

    Args:
        std: standard deviation, or its bounds, in the units that the arrays have by then.
        arrays: names of the arrays.
        probability: share of samples that get any.

    Raises:
        ConfigError: an argument is out of range.
    """
    low, high = range_of("noise: std", std, low=0.0)
    share = probability_of("noise", probability)

    def bind(to: Binding) -> Noise:
        return Noise(checked_names(arrays, to.arrays, "noise: arrays"), low, high, share)

    return Definition("noise", bind)


def channel_drop(probability: float, *, arrays: Sequence[str]) -> Definition:
    """Return components set to zero; vectors are dropped whole.

    Args:
        probability: probability of each component, or vector.
        arrays: names of the arrays.

    Raises:
        ConfigError: an argument is out of range.
    """
    share = probability_of("channel_drop", probability)

    def bind(to: Binding) -> ChannelDrop:
        return ChannelDrop(checked_names(arrays, to.arrays, "channel_drop: arrays"), share)

    return Definition("channel_drop", bind)


def cast(dtype: object, *, arrays: Sequence[str] | None = None) -> Definition:
    """Return elements converted to another type.

    Args:
        dtype: type, such as "float16"; whole numbers are rounded and kept within their range.
        arrays: names of the arrays; by default all volumes of floating point that are no labels.

    Raises:
        ConfigError: DALI has no such type.
    """
    wanted = element_type(dtype)

    def bind(to: Binding) -> Cast:
        names = (
            tuple(
                spec.name
                for spec in to.arrays.values()
                if spec.kind == "volume" and spec.is_interpolated
            )
            if arrays is None
            else checked_names(arrays, to.arrays, "cast: arrays")
        )
        if not names:
            raise ConfigError("cast: there is no volume of floating point", hint="arrays=[...]")
        return Cast(names, wanted)

    return Definition("cast", bind)


def affine(
    *,
    degrees: float = 0.0,
    axis: Axis = None,
    scale: Range | Sequence[tuple[float, float]] = 1.0,
    shift: float | Sequence[float] = 0.0,
    centre: Sequence[float] = (0.0, 0.0, 0.0),
    probability: float = 1.0,
) -> Definition:
    """Return affine maps of points: scaled, turned and moved; vectors and normals with them.

    Args:
        degrees: largest angle, either way.
        axis: "x", "y", "z" or a direction; by default each sample draws one.
        scale: scale or its bounds; three pairs of bounds scale x, y and z each for itself.
        shift: largest shift, either way, or one for each of x, y, z.
        centre: point that is turned and scaled about.
        probability: share of samples that are changed.

    Raises:
        ConfigError: an argument is out of range.
    """
    angle = number("affine: degrees", degrees, low=0.0, high=180.0)
    about = axis_of("affine", axis)
    is_isotropic = not (isinstance(scale, Sequence) and len(scale) == 3)
    given: list[Any] = [scale] * 3 if is_isotropic else list(scale)  # type: ignore[arg-type]
    lows, highs = bounds_of_three([range_of("affine: scale", one, low=1e-6) for one in given])
    most = three_of("affine: shift", shift if isinstance(shift, Sequence) else (shift,) * 3)
    if min(most) < 0:
        raise ConfigError(f"affine: shift must be at least 0, got {shift!r}")
    middle = three_of("affine: centre", centre)
    share = probability_of("affine", probability)
    made = Affine(angle, about, lows, highs, is_isotropic, most, middle, share)
    return Definition("affine", lambda _: made)


def jitter(std: float, *, clip: float | None = None, probability: float = 1.0) -> Definition:
    """Return normal noise on points.

    Args:
        std: standard deviation, in the units that the points have by then.
        clip: largest shift of a coordinate; by default three standard deviations.
        probability: share of samples that get any.

    Raises:
        ConfigError: an argument is out of range.
    """
    strength = number("jitter: std", std, low=0.0)
    most = 3 * strength if clip is None else number("jitter: clip", clip, low=0.0)
    share = probability_of("jitter", probability)
    return Definition("jitter", lambda _: Jitter(strength, most, share))


def unit_scale(to: Literal["box", "ball"] = "box") -> Definition:
    """Return points moved and scaled so that each sample fills the box [-1, 1]³ or the unit ball.

    Args:
        to: "box" or "ball".

    Raises:
        ConfigError: it is neither.
    """
    if to not in ("box", "ball"):
        raise ConfigError(f"unit_scale: to must be 'box' or 'ball', got {to!r}")
    return Definition("unit_scale", lambda _: UnitScale(to == "ball"))
