"""What DALI's operations should give, in NumPy: per sample, from the parameters of the batch."""

from __future__ import annotations

import itertools

import numpy as np

U32 = np.uint32


def flipped(values: np.ndarray, axes: np.ndarray, *, vector: bool = False) -> np.ndarray:
    """Mirror [D, H, W, …] along z, y, x; x of a vector is its first component."""
    for axis in np.flatnonzero(axes):
        values = np.flip(values, int(axis))
    if vector:
        values = values * (1 - 2 * axes[::-1]).astype(values.dtype)
    return values


def turned(values: np.ndarray, turn: np.ndarray, *, vector: bool = False) -> np.ndarray:
    """Turn [D, H, W, …] by a signed permutation of x, y, z, by moving axes: no coordinates."""
    turn = np.rint(turn).astype(int)
    # Row i of the turn says where the new axis i comes from; arrays have z, y, x in this order.
    sources = np.argmax(np.abs(turn), axis=1)
    signs = turn[np.arange(3), sources]
    order = [2 - int(sources[2 - axis]) for axis in range(3)]
    made = np.transpose(values, (*order, *range(3, values.ndim)))
    for axis in range(3):
        if signs[2 - axis] < 0:
            made = np.flip(made, axis)
    if vector:
        made = made[..., sources] * signs.astype(values.dtype)
    return made


def coordinates(shape: tuple[int, ...], forward: np.ndarray) -> np.ndarray:
    """Where each voxel comes from, in voxels x, y, z: float64[D, H, W, 3]."""
    depth, height, length = shape
    grid = np.meshgrid(*(np.arange(n, dtype=float) for n in (depth, height, length)), indexing="ij")
    middle = (np.array([length, height, depth]) - 1) / 2
    return (np.stack(grid[::-1], -1) - middle) @ np.linalg.inv(forward).T + middle


def linear(values: np.ndarray, forward: np.ndarray, *, zero: bool = False) -> np.ndarray:
    """Resample [D, H, W, C] trilinearly, in float64."""
    places = coordinates(values.shape[:3], forward)
    low = np.floor(places)
    share = places - low
    sizes = np.array(values.shape[2::-1])
    made = np.zeros(values.shape)
    for corner in itertools.product((0, 1), repeat=3):
        weight = np.prod(np.where(corner, share, 1 - share), axis=-1)
        at = low.astype(int) + corner
        inside = ((at >= 0) & (at < sizes)).all(-1)
        x, y, z = np.moveaxis(np.clip(at, 0, sizes - 1), -1, 0)
        taken = values[z, y, x].astype(float)
        if zero:
            taken = np.where(inside[..., None], taken, 0)
        made += weight[..., None] * taken
    return made


def nearest(
    values: np.ndarray, forward: np.ndarray, *, zero: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Resample by the nearest voxel; also where that is clear: not on the border of two."""
    places = coordinates(values.shape[:3], forward) + 0.5
    clear = (np.abs(places - np.rint(places)) > 1e-4).all(-1)
    at = np.floor(places).astype(int)
    sizes = np.array(values.shape[2::-1])
    inside = ((at >= 0) & (at < sizes)).all(-1)
    x, y, z = np.moveaxis(np.clip(at, 0, sizes - 1), -1, 0)
    made = values[z, y, x]
    if zero:
        made = np.where(inside.reshape(inside.shape + (1,) * (made.ndim - 3)), made, 0)
    return made.astype(values.dtype), clear


def rotation(axis: np.ndarray, degrees: float) -> np.ndarray:
    """The rotation of x, y, z about an axis, by turning a basis: not Rodrigues' formula."""
    axis = np.asarray(axis, float) / np.linalg.norm(axis)
    other = np.eye(3)[np.argmin(np.abs(axis))]
    first = np.cross(axis, other)
    first /= np.linalg.norm(first)
    second = np.cross(axis, first)
    angle = np.radians(degrees)
    basis = np.stack([first, second, axis], axis=1)
    c, s = np.cos(angle), np.sin(angle)
    return basis @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ basis.T


def normal_noise(shape: tuple[int, ...], keys: np.ndarray) -> np.ndarray:
    """Normal numbers, by the same hash of the elements' numbers, in float64 behind the hash."""

    def mixed(word: np.ndarray) -> np.ndarray:
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            word = (word ^ (word >> U32(shift))) * U32(factor)
        return word ^ (word >> U32(16))

    keys = keys.view(U32)
    counter = np.arange(np.prod(shape, dtype=int), dtype=U32).reshape(shape)
    first = mixed(counter ^ keys[0])
    second = mixed(first + keys[1])
    radius = ((first >> U32(8)).astype(float) + 1) / 2**24
    angle = (second >> U32(8)).astype(float) / 2**24 * 2 * np.pi
    return np.sqrt(-2 * np.log(radius)) * np.cos(angle)
