"""A small packed dataset of every kind of array, and what it was made from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataplane.shards import DatasetWriter, SourceArray, SourceSample, WriteOptions
from dataplane.stores import open_store

SAMPLES = 11


@dataclass(frozen=True)
class Packed:
    """A packed dataset in a folder, and the arrays that went into it."""

    folder: Path
    samples: tuple[SourceSample, ...]

    @property
    def url(self) -> str:
        return f"file://{self.folder}"

    def values(self, key: str) -> dict[str, np.ndarray]:
        (sample,) = (sample for sample in self.samples if sample.key == key)
        return {name: array.values for name, array in sample.arrays.items()}


def source_sample(number: int) -> SourceSample:
    """A mesh whose size varies, fields whose shape does not, and every element type."""
    rng = np.random.default_rng([number, 12345])
    n_points, n_cells = 700 + 137 * (number % 5), 300 + 31 * number
    arrays = {
        "points": rng.standard_normal((n_points, 3)).astype("f4"),
        "cells/connectivity": rng.integers(0, n_points, (n_cells, 3), dtype="i4"),
        "point_data/pressure": rng.standard_normal(n_points).astype("f4"),
        "fields/velocity": rng.standard_normal((17, 12, 10, 3)).astype("f4"),
        "fields/empty": np.zeros((0, 4), "f8"),
        "global_data/mach": np.array(0.1 * number),
        "global_data/mask": rng.random(33) < 0.5,
    }
    for kind in ("u1", "u2", "u4", "u8", "i1", "i2", "i8", "f2", "f8"):
        arrays[f"types/{kind}"] = (rng.standard_normal((5, 7)) * 50).astype(kind)
    for kind in ("c8", "c16"):
        arrays[f"types/{kind}"] = (rng.random(19) + 1j * rng.random(19)).astype(kind)
    return SourceSample(
        key=f"case-{number:03d}",
        arrays={name: SourceArray(values, None, None, {}) for name, values in arrays.items()},
        attributes={"number": number, "name": f"a case, number {number}"},
    )


def pack(folder: Path, samples: Iterable[SourceSample], **options: object) -> Packed:
    given = {"codec": "lz4", "chunk_bytes": 8192, "shard_bytes": 256 << 10, **options}
    kept = tuple(samples)
    with DatasetWriter(open_store(f"file://{folder}"), WriteOptions(**given)) as writer:
        for sample in kept:
            writer.add(sample)
        writer.finish()
    return Packed(folder, kept)


def pack_numbered(folder: Path, count: int) -> Packed:
    """Pack samples whose `x`, float32[6, 6], is full of their number, which is also their `y`."""

    def sample(number: int) -> SourceSample:
        arrays = {"x": np.full((6, 6), number, "f4"), "y": np.array(float(number))}
        return SourceSample(
            key=f"s{number:02d}",
            arrays={name: SourceArray(values, None, None, {}) for name, values in arrays.items()},
            attributes={},
        )

    return pack(folder, map(sample, range(count)))
