"""A dataset of meshes and volumes with named dimensions, permuted or as they came."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dataplane.shards import SourceArray, SourceSample
from tests.datasets.packed import Packed, pack

COUNT = 7
POINTS = 1003
VOLUME = (5, 12, 14, 16)
_DIMENSIONS = {
    "points": ("point", "c"),
    "point_data/pressure": ("point",),
    "point_data/history": ("t", "point"),
    "cell_data/stress": ("cell", "c"),
    "fields/u": ("t", "z", "y", "x", "c"),
    "fields/p": ("t", "z", "y", "x"),
    "coords/x": ("x",),
    "table": None,
    "ids": None,
}


def sample_values(number: int, *, points: int = POINTS) -> dict[str, np.ndarray]:
    """Return arrays whose every element says where it is."""
    rng = np.random.default_rng([number, 99])
    return {
        "points": rng.standard_normal((points, 3)).astype("f4"),
        "point_data/pressure": rng.standard_normal(points).astype("f4"),
        "point_data/history": rng.standard_normal((3, points)).astype("f4"),
        "cell_data/stress": rng.standard_normal((401, 6)).astype("f4"),
        "fields/u": rng.standard_normal((*VOLUME, 3)).astype("f4"),
        "fields/p": rng.standard_normal(VOLUME).astype("f4"),
        "coords/x": np.linspace(0, 1, VOLUME[-1]),
        "table": rng.integers(-9, 9, (50, 4)).astype("i4"),
        "ids": np.arange(20, dtype="i8") + 100 * number,
    }


def mesh_sample(number: int, **options: int) -> SourceSample:
    values = sample_values(number, **options)
    return SourceSample(
        key=f"case-{number}",
        arrays={
            name: SourceArray(array, _DIMENSIONS[name], None, {}) for name, array in values.items()
        },
        attributes={},
    )


def pack_meshes(folder: Path, count: int = COUNT, **options: object) -> Packed:
    return pack(folder, map(mesh_sample, range(count)), chunk_bytes=1024, **options)
