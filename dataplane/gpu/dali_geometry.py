"""Geometry of volumes and points: rotations, and what they are to an image of voxels.

Vectors and points are x, y, z. An array of a volume is indexed z, y, x, with x along its last
spatial axis. DALI's `warp_affine` wants, for each voxel of the result, where it comes from: a 3 x 4
matrix of x, y, z in which the centre of voxel 0 is at 0.5 (Source: DALI's documentation of
`warp_affine`, `inverse_map`). Pure functions.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["Matrix", "cube_turns", "inverse_map", "rotation", "turns_that_fit"]

Matrix = npt.NDArray[np.float64]


def rotation(axis: Sequence[float] | Matrix, degrees: float) -> Matrix:
    """Return the right-handed rotation about an axis: float64[3, 3] of x, y, z.

    Source: Rodrigues' formula.
    """
    x, y, z = np.asarray(axis, np.float64) / np.linalg.norm(axis)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    angle = math.radians(degrees)
    turned: Matrix = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * (cross @ cross)
    return turned


def inverse_map(forward: Matrix, extents: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return what `warp_affine` takes for a map about the centre of a volume: float32[3, 4].

    Args:
        forward: float64[3, 3], where content goes, in voxels x, y, z from the centre.
        extents: z, y, x extents of the volume.
    """
    centre = np.array(extents[::-1], np.float64) / 2
    back = np.linalg.inv(forward)
    # Quarter turns stay exact: their inverse is their transpose, free of rounding.
    if np.array_equal(np.abs(forward), np.abs(forward).astype(bool)):
        back = forward.T
    return np.column_stack((back, centre - back @ centre)).astype(np.float32)


@functools.cache
def cube_turns(planes: tuple[str, ...]) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Return the rotations by right angles that turns in planes make up, the identity first.

    Args:
        planes: planes, each two of z, y, x: `("yx",)` turns about z.

    Returns:
        3 x 3 matrices of x, y, z with entries -1, 0 and 1, in a fixed order.
    """
    quarter = []
    for plane in planes:
        (about,) = set("xyz") - set(plane)
        axis = [float(name == about) for name in "xyz"]
        quarter.append(np.rint(rotation(axis, 90.0)).astype(int))
    found = {_as_tuple(np.eye(3, dtype=int)): None}
    waiting = list(found)
    while waiting:
        matrix = np.array(waiting.pop())
        for turn in quarter:
            product = _as_tuple(turn @ matrix)
            if product not in found:
                found[product] = None
                waiting.append(product)
    first, *others = found
    return first, *sorted(others)


def turns_that_fit(
    turns: Sequence[tuple[tuple[int, ...], ...]], extents: Sequence[int]
) -> list[tuple[tuple[int, ...], ...]]:
    """Return those that leave the extents (z, y, x) of a volume as they are."""
    sizes = tuple(extents[::-1])
    return [
        turn
        for turn in turns
        if all(
            sizes[row] == sizes[column]
            for row, column in itertools.product(range(3), repeat=2)
            if turn[row][column]
        )
    ]


def _as_tuple(matrix: npt.NDArray[np.int_]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(entry) for entry in row) for row in matrix)
