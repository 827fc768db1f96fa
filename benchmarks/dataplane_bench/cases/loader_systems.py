"""Our systems and the measured ceilings of the loader case, and the contenders of a comparison.

Every system is in a process of its own. A rival is started once per number of workers, with the
settings that it is fastest with: each of its `SETTINGS` reads two epochs, and the one with the
fastest goes on to the rounds.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dataplane.cache import CacheConfig
from dataplane.datasets import Dataset
from dataplane.loader import DataLoader
from dataplane.stores import open_store
from dataplane.telemetry import logger
from dataplane_bench.cases.loader_table import our_selection
from dataplane_bench.isolated import Isolated, RivalFailed
from dataplane_bench.model import CEILING_PREFIX, OUR_SYSTEM, Cost, LeftOut
from dataplane_bench.rivals.loader_litdata import LitDataLoader
from dataplane_bench.rivals.loader_mosaicml import MosaicLoader
from dataplane_bench.rivals.loader_webdataset import WebDatasetLoader
from dataplane_bench.rivals.loader_zarr import TensorStoreLoader, ZarrLoader
from dataplane_bench.rivals.loaders import Batch, EpochSystem, LoaderInput, LoaderKind, Settings
from dataplane_bench.rounds import first_line, timed
from dataplane_testing.ceilings import GET_THREADS, fetch_everything
from dataplane_testing.s3 import S3Endpoint

__all__ = [
    "RIVALS",
    "Contender",
    "MemcpySamples",
    "OurLoader",
    "OurRawLoader",
    "RawGet",
    "ceiling_of",
    "start_ours",
    "start_rival",
]

RIVALS: dict[str, Any] = {
    kind.name: kind
    for kind in (LitDataLoader, MosaicLoader, WebDatasetLoader, ZarrLoader, TensorStoreLoader)
}
"""Loaders that are not ours, by name."""

_PROBES = 2


class OurLoader:
    """`dp.DataLoader` over a packed `dp.Dataset` and the SSD cache."""

    name = OUR_SYSTEM
    form: ClassVar[str] = "packed"

    def __init__(self, given: LoaderInput, workers: int, settings: Settings, scratch: Path) -> None:
        arrays: Any = list(given.shapes)
        if given.cut is not None:
            arrays = dict.fromkeys(given.shapes, our_selection(given.cut))
        cache = CacheConfig(dir=scratch / "cache", **settings)
        dataset = Dataset(f"{given.remote}/{self.form}", arrays=arrays, cache=cache)
        self._loader: DataLoader[Any] | None = DataLoader(
            dataset,
            batch_size=given.batch_size,
            shuffle=True,
            num_workers=workers,
            seed=given.seed,
        )

    @staticmethod
    def load() -> None:
        """Do nothing: all is imported."""

    def __iter__(self) -> Iterator[Batch]:
        assert self._loader is not None
        return iter(self._loader)

    def close(self) -> None:
        """Drop the loader; the folder of the cache goes with the scratch."""
        self._loader = None


class OurRawLoader(OurLoader):
    """The same over a dataset that is stored without a codec."""

    name = f"{OUR_SYSTEM}, raw"
    form = "packed-raw"


class RawGet:
    """The cold ceiling: every byte of the packed shards as ranged GETs, thrown away."""

    name = f"{CEILING_PREFIX}raw-get"
    threads = GET_THREADS

    def __init__(self, given: LoaderInput) -> None:
        os.environ.update(given.environment)
        self._given = given
        self._store = open_store(f"{given.remote}/{OurLoader.form}")

    def run(self, step_s: float = 0.0) -> Cost:
        """Fetch the whole dataset once; a ceiling has no steps."""
        del step_s
        return timed(lambda: fetch_everything(self._store), samples=self._given.samples)

    def close(self) -> None:
        """Drop the connections."""
        self._store.close()


class MemcpySamples:
    """The warm ceiling: as many bytes as all samples decode to, copied to reused memory."""

    name = f"{CEILING_PREFIX}memcpy"
    threads = 1

    def __init__(self, given: LoaderInput) -> None:
        self._given = given
        total = given.samples * sum(4 * int(np.prod(shape)) for shape in given.shapes.values())
        self._from = np.ones(total // given.batches, np.uint8)
        self._to = np.empty_like(self._from)

    def run(self, step_s: float = 0.0) -> Cost:
        """Copy every batch once; a ceiling has no steps."""
        del step_s

        def work() -> int:
            for _ in range(self._given.batches):
                np.copyto(self._to, self._from)
            return self._given.batches * int(self._to.nbytes)

        return timed(work, samples=self._given.samples)

    def close(self) -> None:
        """Nothing stays open."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Contender:
    """A started system at one length of the step: a `System` whose runs tell what was fetched.

    Attributes:
        system: system; the contenders of several steps share it.
        step_s: length of the emulated training step.
        endpoint: endpoint that it fetches from.
        settings: name of the settings that were chosen for it.
    """

    system: Isolated
    step_s: float
    endpoint: S3Endpoint
    settings: str | None = None

    @property
    def name(self) -> str:
        """Name of the system."""
        return self.system.name

    @property
    def threads(self) -> int:
        """Number of its threads or workers."""
        return self.system.threads

    def run(self) -> Cost:
        """Read one epoch."""
        self.endpoint.clear_requests()
        cost = self.system.run(self.step_s)
        sent = sum(record.bytes_sent for record in self.endpoint.requests())
        return dataclasses.replace(cost, bytes_fetched=sent)

    def close(self) -> None:
        """End the system."""
        self.system.close()


def start_ours(kind: LoaderKind, given: LoaderInput, workers: int) -> tuple[Isolated, str | None]:
    """Start one of ours.

    Returns:
        The system and the name of its settings. What is fetched ahead of the next epoch would be
        thrown away where each epoch begins without local data, so nothing is.

    Raises:
        RivalFailed: it could not start.
    """
    if given.cold:
        return _start(kind, given, workers, {"next_epoch_bytes": 0}), "next_epoch_bytes=0"
    return _start(kind, given, workers, {}), None


def start_rival(
    name: str,
    given: LoaderInput,
    workers: int,
    progress: Callable[[str], None],
    *,
    choose: bool = True,
) -> tuple[Isolated, str] | LeftOut:
    """Start a rival with the settings that it reads an epoch fastest with.

    Args:
        name: name of the rival.
        given: dataset.
        workers: number of its worker processes.
        progress: function that is told what is tried.
        choose: whether to try all settings, and not just take the first.

    Returns:
        The system and the name of its settings, or why there is none.
    """
    kind = RIVALS[name]
    candidates = list(kind.SETTINGS.items())[: None if choose else 1]
    best: tuple[Isolated, str] | None = None
    best_s = float("inf")
    failures: list[str] = []
    with ExitStack() as started:
        for title, settings in candidates:
            progress(f"{name}, {workers} workers: trying {title}")
            try:
                system = _start(kind, given, workers, settings)
                started.callback(system.close)
                runs = _PROBES if len(candidates) > 1 else 0
                taken_s = min((system.run(0.0).elapsed_s for _ in range(runs)), default=0.0)
            except RivalFailed as err:
                failures.append(first_line(err))
                continue
            if taken_s < best_s:
                if best is not None:
                    best[0].close()
                best, best_s = (system, title), taken_s
            else:
                system.close()
        if best is not None:
            started.pop_all()
            return best
    logger.warning("%s cannot run and is left out: %s", name, failures[0])
    return LeftOut(f"{name}, {workers} workers", failures[0])


def ceiling_of(given: LoaderInput) -> Isolated:
    """Start the ceiling: raw GETs of a cold run, copies of a warm one.

    Raises:
        RivalFailed: it could not start.
    """
    kind = RawGet if given.cold else MemcpySamples
    return Isolated(kind.name, kind.threads, functools.partial(kind, given), watch_memory=True)


def _start(kind: LoaderKind, given: LoaderInput, workers: int, settings: Settings) -> Isolated:
    build = functools.partial(EpochSystem, kind, given, workers, settings)
    return Isolated(kind.name, workers, build, watch_memory=True)
