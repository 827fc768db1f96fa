"""Regions, checked, and what of them lies beyond their array.

Pure functions.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeAlias

from dataplane.datasets.selections import Range, Region, Selection, padding_of
from dataplane.errors import ConfigError

__all__ = ["Box", "check_region", "outside"]

Box: TypeAlias = tuple[Range, ...]
"""One half-open range per dimension."""


def check_region(region: Region, shape: Sequence[int], selection: Selection, name: str) -> None:
    """Check a region: a selection may be the user's.

    Raises:
        ConfigError: it does not fit the array.
    """
    if len(region) != len(shape):
        raise ConfigError(
            f"{selection!r} gives {len(region)} dimensions for array {name!r}, which has "
            f"{len(shape)}"
        )
    is_padded = padding_of(selection) is not None
    for axis, (ranges, extent) in enumerate(zip(region, shape, strict=True)):
        for start, stop in ranges:
            if start > stop or not (is_padded or 0 <= start <= stop <= extent):
                raise ConfigError(
                    f"{selection!r} gives the range {start} to {stop} of dimension {axis} of array "
                    f"{name!r}, which has {extent} elements there"
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
