"""Runs: consecutive points, rows or time steps of an array.

`points(n)` takes one cyclic run of points (or cells) that were permuted when they were packed, so
that the run is a uniform sample of them: each is in it with probability n/N. It costs at most two
ranges of bytes per array, whatever n. All arrays of one entity get the same run, so values stay
with their points, and a batch says in `<name>.weight` how many points each one stands for (N/n).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal, TypeAlias

from dataplane.datasets.draws import draw_below
from dataplane.datasets.selections import (
    ArrayForm,
    Combined,
    Range,
    Region,
    as_count,
    whole_region,
)
from dataplane.errors import ConfigError
from dataplane.shards.chunking import ROW_DIMENSIONS, TIME_DIMENSIONS

__all__ = ["Points", "Rows", "Short", "Steps", "points", "rows", "steps"]

Short: TypeAlias = Literal["error", "repeat", "whole"]
_SHORT = ("error", "repeat", "whole")


@dataclass(frozen=True, slots=True, repr=False)
class Points(Combined):
    """One cyclic run of permuted points or cells. Made by `points`.

    Attributes:
        count: points.
        short: what becomes of an array that has fewer.
    """

    count: int
    short: Short = "error"

    def __repr__(self) -> str:
        short = "" if self.short == "error" else f", short={self.short!r}"
        return f"points({self.count}{short})"

    @property
    def is_random(self) -> bool:
        """True: where the run begins is drawn."""
        return True

    def region(self, array: ArrayForm, *, draw: int) -> Region:
        """Return the run, in one range or several of the dimension of points or cells.

        Raises:
            ConfigError: the array has no points or cells, too few, or they were not permuted.
        """
        axis = self._axis(array)
        extent = array.shape[axis]
        region = list(whole_region(array.shape))
        if extent < self.count and self.short == "error":
            raise ConfigError(
                f"{self.count} points of array {array.name!r} are asked for, which is "
                f"{array.described}",
                hint=f"ask for fewer; short='whole' takes all {extent}, ragged; short='repeat' "
                "takes some twice",
            )
        if not extent and self.short == "repeat":
            raise ConfigError(
                f"array {array.name!r} has no points that could be repeated: it is "
                f"{array.described}",
                hint="short='whole' takes it as it is, ragged",
            )
        # All of them stay in their order: there is nothing to choose.
        if extent > self.count or (extent < self.count and self.short == "repeat"):
            first = draw_below(extent, draw, array.dimension_names[axis] or axis)
            region[axis] = tuple(_cyclic(first, self.count, extent))
        return tuple(region)

    def weight(self, array: ArrayForm) -> float:
        """Return how many points each one that is taken stands for."""
        extent = array.shape[self._axis(array)]
        is_whole = extent <= self.count and self.short == "whole"
        return 1.0 if is_whole or not extent else extent / self.count

    @staticmethod
    def _axis(array: ArrayForm) -> int:
        axes = [axis for axis, name in enumerate(array.dimension_names) if name in ROW_DIMENSIONS]
        if not axes:
            raise ConfigError(
                f"dp.points takes points or cells, and array {array.name!r} has no dimension of "
                f"that name: it is {array.described}",
                hint="dp.rows(n) takes a run of rows, dp.crop a box",
            )
        name = array.dimension_names[axes[0]]
        if name not in array.permuted:
            raise ConfigError(
                f"the {name}s of array {array.name!r} were not permuted when they were packed, so "
                "a run of them is no random sample but neighbours in the order of the mesh",
                hint="pack it with --permute-seed, which makes any run a uniform sample; or take "
                "such neighbours with dp.rows(n)",
            )
        return axes[0]


@dataclass(frozen=True, slots=True, repr=False)
class Rows(Combined):
    """Consecutive rows: entries of the first dimension. Made by `rows`.

    Attributes:
        count: rows.
        start: the first; None draws it.
    """

    count: int
    start: int | None = None

    def __repr__(self) -> str:
        return f"rows({self.count})" if self.start is None else f"rows({self.count}, {self.start})"

    @property
    def is_random(self) -> bool:
        """Whether the first row is drawn."""
        return self.start is None

    def region(self, array: ArrayForm, *, draw: int) -> Region:
        """Return the rows as one range of the first dimension.

        Raises:
            ConfigError: the array has too few.
        """
        if not array.shape:
            raise ConfigError(f"array {array.name!r} is a single value and has no rows")
        _check_reach(array, 0, self.count, self.start)
        first = self.start
        if first is None:
            first = draw_below(array.shape[0] - self.count + 1, draw, "rows")
        return (((first, first + self.count),), *whole_region(array.shape[1:]))


@dataclass(frozen=True, slots=True, repr=False)
class Steps(Combined):
    """Time steps at equal distances. Made by `steps`.

    Attributes:
        count: steps.
        stride: distance from one to the next.
        start: the first; None draws it.
        dimension: name or number of the dimension; None for the one called t, time or step.
    """

    count: int
    stride: int = 1
    start: int | None = None
    dimension: str | int | None = None

    def __repr__(self) -> str:
        stride = "" if self.stride == 1 else f", {self.stride}"
        start = "" if self.start is None else f", start={self.start}"
        dimension = "" if self.dimension is None else f", dimension={self.dimension!r}"
        return f"steps({self.count}{stride}{start}{dimension})"

    @property
    def is_random(self) -> bool:
        """Whether the first step is drawn."""
        return self.start is None

    def region(self, array: ArrayForm, *, draw: int) -> Region:
        """Return the steps as ranges of the dimension of time.

        Raises:
            ConfigError: the array has no such dimension, or too few steps.
        """
        axis = self._axis(array)
        reach = (self.count - 1) * self.stride + 1
        _check_reach(array, axis, reach, self.start)
        first = self.start
        if first is None:
            first = draw_below(array.shape[axis] - reach + 1, draw, "steps")
        region = list(whole_region(array.shape))
        if self.stride == 1:
            region[axis] = ((first, first + self.count),)
        else:
            region[axis] = tuple(
                (step, step + 1) for step in range(first, first + reach, self.stride)
            )
        return tuple(region)

    def _axis(self, array: ArrayForm) -> int:
        if self.dimension is not None:
            return array.axis(self.dimension)
        for axis, name in enumerate(array.dimension_names):
            if name in TIME_DIMENSIONS:
                return axis
        raise ConfigError(
            f"array {array.name!r} has no dimension called {', '.join(sorted(TIME_DIMENSIONS))}: "
            f"it is {array.described}",
            hint="say which one is time: dp.steps(n, dimension=0)",
        )


def points(count: int, *, short: Short = "error") -> Points:
    """Select a random run of `count` permuted points (or cells): a uniform sample of them.

    The batch has `<name>.weight`, float64[B]: how many points each one stands for.

    Args:
        count: points per sample.
        short: what becomes of a sample that has fewer: an `error`; `repeat` goes around its end
            more than once; `whole` takes what there is, so that the array is ragged.

    Raises:
        ConfigError: an argument cannot be used. A dataset whose points were not permuted is refused
            when it is opened.

    Example:
        >>> mesh = ArrayForm("points", (10, 3), ("point", "c"), permuted=("point",))
        >>> region = points(4).region(mesh, draw=8)
        >>> sum(stop - start for start, stop in region[0]), points(4).weight(mesh)
        (4, 2.5)
    """
    if short not in _SHORT:
        raise ConfigError(f"points: short must be one of {_SHORT}, got {short!r}")
    return Points(as_count("points: count", count), short)


def rows(count: int, start: int | None = None) -> Rows:
    """Select `count` consecutive rows, entries of the first dimension.

    Args:
        count: rows per sample.
        start: the first; by default drawn for each sample and epoch, without going around the end.

    Raises:
        ConfigError: an argument cannot be used.
    """
    return Rows(as_count("rows: count", count), _start("rows", start))


def steps(
    count: int, stride: int = 1, *, start: int | None = None, dimension: str | int | None = None
) -> Steps:
    """Select `count` time steps, `stride` apart.

    Args:
        count: steps per sample.
        stride: distance from one to the next.
        start: the first; by default drawn for each sample and epoch.
        dimension: name or number of the dimension; by default the one called t, time or step.

    Raises:
        ConfigError: an argument cannot be used.

    Example:
        >>> steps(3, 2, start=1).region(ArrayForm("u", (8, 4), ("t", "x")), draw=0)
        (((1, 2), (3, 4), (5, 6)), ((0, 4),))
    """
    count, stride = as_count("steps: count", count), as_count("steps: stride", stride)
    return Steps(count, stride, _start("steps", start), dimension)


def _cyclic(first: int, count: int, extent: int) -> list[Range]:
    """Return `count` entries from `first` on, around the end as often as it takes."""
    bounds = [first, *range(extent, first + count, extent), first + count]
    return [
        (start % extent, start % extent + stop - start)
        for start, stop in itertools.pairwise(bounds)
        if stop > start
    ]


def _check_reach(array: ArrayForm, axis: int, reach: int, start: int | None) -> None:
    extent = array.shape[axis]
    if reach + (start or 0) > extent:
        raise ConfigError(
            f"{reach} entries from {start or 0} on are asked for along dimension "
            f"{array.dimension_names[axis] or axis} of array {array.name!r}, which is "
            f"{array.described}",
            hint="ask for fewer",
        )


def _start(what: str, start: int | None) -> int | None:
    return None if start is None else as_count(f"{what}: start", start, least=0)
