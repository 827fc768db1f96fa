"""What of a region lies beyond its array, and what may stand there.

Pure functions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from dataplane.datasets.selections import Range, Region
from dataplane.errors import ConfigError

__all__ = ["Box", "check_padding", "outside"]

Box: TypeAlias = tuple[Range, ...]
"""One half-open range per dimension."""


def check_padding(pad: float | None, dtype: np.dtype[Any], name: str) -> None:
    """Check that elements of a type can hold what stands for those beyond the array.

    A number with a fraction is rounded to the nearest one of a floating-point type, as everywhere.

    Raises:
        ConfigError: they cannot.
    """
    if pad is None:
        return
    try:
        problem = _why_not(pad, dtype)
    except (TypeError, ValueError, OverflowError):  # an attribute of a selection of the user's
        problem = "it is no number that a float can hold"
    if problem:
        raise ConfigError(
            f"array {name!r} cannot be padded with {pad!r:.60}: {problem}",
            hint="give another pad=, of each array that has such elements",
        )


def _why_not(pad: float, dtype: np.dtype[Any]) -> str:
    """Say why elements of a type cannot hold a number; nothing where they can."""
    is_finite = math.isfinite(pad)
    if dtype.kind == "b":
        return "" if pad in (0, 1) else "it holds true and false"
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if not is_finite or pad != int(pad):
            return f"it holds whole numbers, {dtype}"
        fits = limits.min <= int(pad) <= limits.max
        return "" if fits else f"{dtype} goes from {limits.min} to {limits.max}"
    # Just above the largest number, the nearest one is still that.
    with np.errstate(over="ignore"):
        is_held = not is_finite or bool(np.isfinite(np.array(float(pad)).astype(dtype)))
    return "" if is_held else f"{dtype} has no number so large"


def outside(region: Region, shape: Sequence[int]) -> list[Box]:
    """Return the boxes of a region's result that come from beyond its array, none twice.

    Example:
        >>> outside((((-1, 3),), ((0, 2),)), (4, 2))
        [((0, 1), (0, 2))]
    """
    inside: list[list[Range]] = []
    beyond: list[list[Range]] = []
    for ranges, extent in zip(region, shape, strict=True):
        within: list[Range] = []
        past: list[Range] = []
        at = 0
        for start, stop in ranges:
            first, last = (min(max(place, 0), extent) for place in (start, stop))
            pieces = [(start, first), (first, last), (last, stop)] if first < last else []
            for number, (begin, end) in enumerate(pieces or [(start, stop)]):
                if begin < end:
                    found = within if pieces and number == 1 else past
                    found.append((at + begin - start, at + end - start))
            at += stop - start
        inside.append(within)
        beyond.append(past)
    everything = [[*within, *past] for within, past in zip(inside, beyond, strict=True)]
    return [
        box
        for axis, past in enumerate(beyond)
        for box in itertools.product(*inside[:axis], past, *everything[axis + 1 :])
    ]
