"""A small packed dataset of volumes and meshes, and what the pipelines make of it, by sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import dataplane as dp
from dataplane.shards import SourceArray, SourceSample
from tests.datasets.packed import Packed, pack

SAMPLES = 7
SHAPE = (8, 8, 8)
FLOATS = ("f2", "f4", "f8")
OTHERS = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "?")
KINDS = (*FLOATS, *OTHERS)


def values_of(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Values that use all bytes of their type."""
    dtype = np.dtype(kind)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def volumes(number: int, shape: tuple[int, ...] = SHAPE) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([number, 7])
    arrays = {f"types/{kind}": values_of(rng, shape, kind) for kind in KINDS}
    return {
        "fields/density": (rng.standard_normal(shape) * 3 + 5).astype("f4"),
        "fields/velocity": rng.standard_normal((*shape, 3)).astype("f4"),
        "fields/label": rng.integers(0, 9, shape).astype("i4"),
        "fields/pair": rng.standard_normal((*shape, 2)).astype("f4"),
        "global_data/mach": np.array(0.25 * number),
        **arrays,
    }


def mesh(number: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([number, 8])
    count = 60 + 11 * (number % 4)
    normals = rng.standard_normal((count, 3))
    return {
        "points": (rng.standard_normal((count, 3)) * 4 + 1).astype("f4"),
        "exact": rng.standard_normal((count, 3)) * 4 + 1000,
        "point_data/normals": (normals / np.linalg.norm(normals, axis=1)[:, None]).astype("f4"),
        "point_data/velocity": rng.standard_normal((count, 3)).astype("f4"),
        "point_data/pressure": rng.standard_normal(count).astype("f4"),
    }


def packed(folder: Path, arrays: Iterable[dict[str, np.ndarray]], **more: Any) -> Packed:
    def sample(number: int, of_sample: dict[str, np.ndarray]) -> SourceSample:
        names = more.get("dimension_names", {})
        return SourceSample(
            f"case-{number}",
            {n: SourceArray(v, names.get(n), None, {}) for n, v in of_sample.items()},
            {},
        )

    return pack(folder, [sample(n, one) for n, one in enumerate(arrays)])


def by_sample(batches: Iterable[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield key, arrays and, under "params", parameters of each sample, as NumPy."""
    for batch in batches:
        keys = batch["__key__"]
        for place, key in enumerate(keys):
            sample: dict[str, Any] = {}
            for name, value in batch.items():
                if name in ("__key__", "__source__", "__params__") or name.endswith(".offsets"):
                    continue
                offsets = batch.get(f"{name}.offsets")
                if offsets is not None:
                    sample[name] = value[offsets[place] : offsets[place + 1]].numpy()
                else:
                    sample[name] = value[place].numpy()
            sample["params"] = {n: v[place].numpy() for n, v in batch["__params__"].items()}
            yield key, sample


def run(dataset: Any, ops: Sequence[Any], **options: Any) -> dict[str, dict[str, Any]]:
    """Return every sample of a pass by its key."""
    given = {"batch_size": 3, "seed": 5, "shuffle": True, "threads": 1, **options}
    pipeline = dp.dali_pipeline(dataset, given.pop("batch_size"), ops, **given)
    return dict(by_sample(pipeline))
