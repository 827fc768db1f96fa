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
    problem = ""
    if dtype.kind == "b" and pad not in (0, 1):
        problem = "it holds true and false"
    elif dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if not math.isfinite(pad) or pad != int(pad):
            problem = f"it holds whole numbers, {dtype}"
        elif not limits.min <= int(pad) <= limits.max:
            problem = f"{dtype} goes from {limits.min} to {limits.max}"
    elif dtype.kind in "fc" and math.isfinite(pad):
        # Just above the largest number, the nearest one is still that.
        with np.errstate(over="ignore"):
            is_held = bool(np.isfinite(np.array(float(pad)).astype(dtype)))
        problem = "" if is_held else f"{dtype} has no number so large"
    if problem:
        raise ConfigError(
            f"array {name!r} cannot be padded with {pad!r}: {problem}",
            hint="give another pad=, of each array that has such elements",
        )


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
