"""Samples and stores that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataplane.errors import NotFound
from dataplane.shards import DatasetWriter, SourceArray, SourceSample, WriteOptions
from dataplane.stores import Store, open_store


def make_sample(key: str, seed: int = 0, points: int = 500) -> SourceSample:
    """A sample with one array of every kind that the format distinguishes."""
    rng = np.random.default_rng(seed)
    field = rng.standard_normal((2, 24, 40, 40, 3), np.float32).cumsum(axis=2)
    return SourceSample(
        key,
        {
            "points": SourceArray(
                rng.random((points, 3), np.float32), ("point", "axis"), "m", {"frame": "body"}
            ),
            "point_data/p, static": SourceArray(rng.standard_normal(points), ("point",), "Pa"),
            "cells/types": SourceArray(np.full(7, 12, np.uint8), ("cell",)),
            "fields/velocity": SourceArray(field, ("t", "z", "y", "x", "c"), "m/s"),
            "global_data/scalar": SourceArray(np.array(3.5)),
            "global_data/empty": SourceArray(np.zeros((0, 3), np.int32)),
            "global_data/zeros": SourceArray(np.zeros((100, 3), np.int64)),
            "mask": SourceArray(rng.random((50, 50)) > 0.5),
            "spectrum": SourceArray(rng.random(30_000) + 1j * rng.random(30_000)),
            "half": SourceArray(rng.random(3000).astype(np.float16)),
            "big_endian": SourceArray(rng.random(3000).astype(">f8")),
            "strided": SourceArray(rng.random((60, 60))[::2, ::-1]),
        },
        {"mach": 0.5, "name": "Flügel", "bad": float("nan")},
    )


@pytest.fixture
def samples() -> list[SourceSample]:
    return [make_sample(f"run/case {i}", i, 400 + i) for i in range(3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "dataset"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    opened = open_store(f"file://{folder}")
    yield opened
    opened.close()


@pytest.fixture
def pack(store: Store) -> Callable[..., Store]:
    """Write samples to the store and return it."""

    def _pack(*samples: SourceSample, **options: object) -> Store:
        with DatasetWriter(store, WriteOptions(**options)) as writer:  # type: ignore[arg-type]
            for sample in samples:
                writer.add(sample)
            writer.finish()
        return store

    return _pack


def one(key: str = "a", **arrays: Any) -> SourceSample:
    arrays = arrays or {"x": np.arange(10)}
    return SourceSample(key, {name: SourceArray(values) for name, values in arrays.items()})


def noise(key: str, size: int) -> SourceSample:
    """A sample that does not compress."""
    values = np.random.default_rng(len(key)).integers(0, 256, size, np.uint8)
    return SourceSample(key, {"noise": SourceArray(values)})


def keys_of(store: Store) -> list[str]:
    try:
        return [info.key for info in store.list()]
    except NotFound:  # A folder that nothing was written to does not exist.
        return []


@pytest.fixture
def temp_dir(tmp_path: Path) -> Path:
    made = tmp_path / "temp"
    made.mkdir()
    return made
