"""The small part of the loader case: samples of a few numbers, where the work per sample counts.

A sample is six arrays of ten float32. Everything is in the cache, orders are shuffled, and epochs
are read in batches of 64 and of 1: samples per second, which for batches of 1 is batches as well.
Beside ours is torch's own `DataLoader` over the very same dataset. Ceiling: native decoding of the
same batches on one thread, already planned and in memory.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch.utils.data

from dataplane.cache import CacheConfig
from dataplane.codecs import ChunkTable, decode
from dataplane.datasets import Dataset
from dataplane.datasets.samples import KEY, FetchedTogether
from dataplane.loader import DataLoader
from dataplane.shards import DatasetWriter, SourceArray, SourceSample, WriteOptions
from dataplane.stores import open_store
from dataplane_bench.model import CEILING_PREFIX, OUR_SYSTEM, Case, Cost, Row, System, summarise
from dataplane_bench.rounds import run_rounds, start_all, timed

__all__ = ["SmallInput", "run_small"]

BATCH_SIZES = (64, 1)
ARRAYS = 6
NUMBERS = 10
_SAMPLE_BYTES = ARRAYS * NUMBERS * 4


@dataclasses.dataclass(frozen=True, slots=True)
class SmallInput:
    """A packed dataset of small samples.

    Attributes:
        url: its URL.
        samples: number of its samples.
        batch_size: samples per batch.
        cache_dir: directory of the cache.
    """

    url: str
    samples: int
    batch_size: int
    cache_dir: Path

    def open(self) -> Dataset:
        """Open the dataset, with all of it in the cache."""
        dataset = Dataset(self.url, cache=CacheConfig(dir=self.cache_dir))
        for first in range(0, self.samples, 1024):
            dataset.reader().fetch(range(first, min(first + 1024, self.samples)))
        return dataset


def run_small(
    samples: int, *, threads: int, rounds: int, seed: int, progress: Callable[[str], None]
) -> list[Row]:
    """Pack small samples, read them in batches of each size; return the rows of all sizes."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="dataplane-bench-") as name:
        progress("packing small samples")
        folder = Path(name)
        url = f"file://{folder / 'packed'}"
        _pack(url, samples, seed)
        for batch_size in BATCH_SIZES:
            given = SmallInput(url, samples, batch_size, folder / "cache")
            rows += _compare(given, threads, rounds, seed, progress)
    return rows


def _compare(
    given: SmallInput, threads: int, rounds: int, seed: int, progress: Callable[[str], None]
) -> list[Row]:
    state = f"warm, batches of {given.batch_size}"
    builders: list[tuple[str, int, Callable[[], System]]] = [
        (OUR_SYSTEM, threads, functools.partial(SmallLoader, given, threads)),
        (PlainLoader.name, 0, functools.partial(PlainLoader, given)),
        (DecodeAlone.name, 1, functools.partial(DecodeAlone, given)),
    ]
    alive, costs = run_rounds(
        start_all(builders, progress),
        rounds=rounds,
        warmup=1,
        seed=seed,
        progress=lambda text: progress(f"{state}: {text}"),
    )
    case = Case(
        "loader",
        f"{given.samples} samples of {ARRAYS} arrays of {NUMBERS} float32",
        codec="blosc-lz4",
        selection="whole",
        state=state,
    )
    return summarise(case, alive, costs, ceiling=DecodeAlone.name)


class SmallLoader:
    """`dp.DataLoader` over the dataset."""

    name = OUR_SYSTEM

    def __init__(self, given: SmallInput, threads: int) -> None:
        self.threads = threads
        self._given = given
        self._loader: DataLoader[Any] = DataLoader(
            given.open(), batch_size=given.batch_size, shuffle=True, num_workers=threads, seed=0
        )

    def run(self) -> Cost:
        """Read one epoch."""
        return _epoch(self._loader, self._given)

    def close(self) -> None:
        """Nothing stays open."""


class PlainLoader:
    """Torch's own `DataLoader` over the same dataset, in this process: its best for small ones."""

    name = "torch DataLoader"
    threads = 0

    def __init__(self, given: SmallInput) -> None:
        self._given = given
        self._loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
            given.open(), batch_size=given.batch_size, shuffle=True
        )

    def run(self) -> Cost:
        """Read one epoch."""
        return _epoch(self._loader, self._given)

    def close(self) -> None:
        """Nothing stays open."""


class DecodeAlone:
    """The ceiling: batches whose rows and bytes are at hand, decoded into memory that is there."""

    name = f"{CEILING_PREFIX}decode"
    threads = 1

    def __init__(self, given: SmallInput) -> None:
        self._given = given
        reader = given.open().reader()
        order = np.random.default_rng(0).permutation(given.samples)
        self._batches: list[tuple[ChunkTable, memoryview]] = []
        for first in range(0, given.samples, given.batch_size):
            batch = reader.fetch(order[first : first + given.batch_size].tolist())
            assert isinstance(batch, FetchedTogether)
            stacked = (True,) * ARRAYS
            rows, slots = batch.plan.rows([f.rows_in_batch(stacked) for f in batch.plan.forms])
            rows["destination_start"][:, 0] = slots
            self._batches.append((ChunkTable(rows), batch.packed.data))
        shape = (given.batch_size, NUMBERS)
        self._destinations = [np.empty(shape, np.float32) for _ in range(ARRAYS)]

    def run(self) -> Cost:
        """Decode every batch once."""

        def work() -> int:
            for table, packed in self._batches:
                decode(table, [packed], self._destinations)
            return self._given.samples * _SAMPLE_BYTES

        return timed(work, samples=self._given.samples)

    def close(self) -> None:
        """Nothing stays open."""


def _epoch(batches: Iterable[Mapping[str, Any]], given: SmallInput) -> Cost:
    """Read one epoch.

    Raises:
        RuntimeError: it did not hold all samples.
    """

    def work() -> int:
        count = sum(len(batch[KEY]) for batch in batches)
        if count != given.samples:
            raise RuntimeError(f"an epoch held {count} samples instead of {given.samples}")
        return count * _SAMPLE_BYTES

    return timed(work, samples=given.samples)


def _pack(url: str, samples: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with DatasetWriter(open_store(url), WriteOptions(codec="lz4")) as writer:
        for number in range(samples):
            values = rng.random((ARRAYS, NUMBERS), dtype=np.float32)
            arrays = {
                f"field-{place}": SourceArray(row, None, None, {})
                for place, row in enumerate(values)
            }
            writer.add(SourceSample(key=f"sample-{number:06d}", arrays=arrays, attributes={}))
        writer.finish()
