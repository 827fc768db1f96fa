"""What all training loaders of the loader case share: input, the pass that is timed, its cost.

A loader is a class with a `name`, its `SETTINGS`, `load` that imports its package, and a
constructor that opens a dataset; iterating it reads an epoch in a new order, in dictionaries of
stacked tensors `[B, ...]`. `EpochSystem` makes a `System` of it:

- *cold*: every run opens it anew over an empty folder, inside the time, worker processes included:
  it is a first epoch. Imports are not counted.
- *warm*: it is opened once, and worker processes stay.

Every batch is looked at: one number per page is summed, so that no page can be left unread, and
the sum over the epoch is that of the samples as they were generated, or the run is an error.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import shutil
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from dataplane_bench.model import Cost
from dataplane_bench.rounds import cpu_seconds
from dataplane_bench.training_step import StepClock

__all__ = [
    "Batch",
    "Cut",
    "EpochSystem",
    "Loader",
    "LoaderInput",
    "LoaderKind",
    "Settings",
    "consume",
    "cut_sample",
    "digest_of",
    "draw_box",
]

Batch: TypeAlias = Mapping[str, torch.Tensor]
Settings: TypeAlias = Mapping[str, Any]
"""Settings of a loader by their names: one entry of its `SETTINGS`."""
Cut: TypeAlias = tuple[Literal["crop", "run"], int]
"""A part of every sample: a cube with that side, or as many rows."""

_PAGE_NUMBERS = 4096 // 4


@dataclasses.dataclass(frozen=True, slots=True)
class LoaderInput:
    """One dataset in every form that the loaders need.

    Attributes:
        local: folder with the forms, one folder each.
        remote: URL of the prefix of the store that has the same.
        shapes: shape of each array of a sample, float32; the same in all samples.
        samples: number of samples.
        batch_size: samples per batch.
        cut: part of each sample to deliver, None for all of it.
        digest: sum that a whole epoch must have, see `digest_of`; None where parts are drawn.
        shard_urls: presigned URLs of the tar shards, for programs that sign no requests.
        environment: variables that hold endpoint, credentials and a temporary folder.
        scratch: folder for what loaders keep.
        cold: whether every run starts without local data.
        seed: seed of orders and of parts.
    """

    local: Path
    remote: str
    shapes: Mapping[str, tuple[int, ...]]
    samples: int
    batch_size: int
    cut: Cut | None
    digest: int | None
    shard_urls: tuple[str, ...]
    environment: Mapping[str, str]
    scratch: Path
    cold: bool
    seed: int = 0

    def url(self, form: str) -> str:
        """Return where a form of the dataset is read: in the store if cold, else in the folder."""
        return f"{self.remote}/{form}" if self.cold else str(self.local / form)

    @property
    def batches(self) -> int:
        """Number of batches of an epoch."""
        return -(-self.samples // self.batch_size)


class Loader(Protocol):
    """An opened loader."""

    def __iter__(self) -> Iterator[Batch]:
        """Read an epoch in a new order."""
        ...

    def close(self) -> None:
        """Stop its workers. Idempotent."""
        ...


class LoaderKind(Protocol):
    """The class of a loader."""

    name: str

    @staticmethod
    def load() -> None:
        """Import what it needs.

        Raises:
            ModuleNotFoundError: it is not installed.
        """
        ...

    def __call__(
        self, given: LoaderInput, workers: int, settings: Settings, scratch: Path
    ) -> Loader:
        """Open it over an empty folder."""
        ...


class EpochSystem:
    """A `System` of a loader: a run is an epoch.

    Args:
        kind: class of the loader.
        given: dataset.
        workers: number of its workers; 0 loads in the training loop's thread.
        settings: its settings.
    """

    def __init__(
        self, kind: LoaderKind, given: LoaderInput, workers: int, settings: Settings
    ) -> None:
        os.environ.update(given.environment)
        self.name, self.threads = kind.name, workers
        self._kind, self._given, self._settings = kind, given, settings
        self._loader: Loader | None = None
        self._folders = itertools.count()
        self._scratch = given.scratch / f"{kind.name.partition(' ')[0]}-{os.getpid()}"
        kind.load()

    def run(self, step_s: float = 0.0) -> Cost:
        """Read one epoch beside a training step of some length."""
        scratch = self._scratch / str(next(self._folders))
        scratch.mkdir(parents=True)
        cpu, start = cpu_seconds(), time.perf_counter()
        if self._loader is None:
            self._loader = self._kind(self._given, self.threads, self._settings, scratch)
        cost = consume(self._loader, self._given, step_s=step_s, since=(start, cpu))
        if self._given.cold:
            self.close()
        return cost

    def close(self) -> None:
        """Stop the loader and remove what it kept."""
        if self._loader is not None:
            self._loader.close()
            self._loader = None
        shutil.rmtree(self._scratch, ignore_errors=True)


def consume(
    batches: Iterable[Batch],
    given: LoaderInput,
    *,
    step_s: float = 0.0,
    since: tuple[float, float] | None = None,
) -> Cost:
    """Read one epoch, look at every page of it, and compute a step per batch.

    Args:
        batches: batches of the epoch.
        given: dataset that they are of.
        step_s: length of the emulated training step.
        since: wall and processor time that the cost counts from; now by default.

    Raises:
        RuntimeError: the epoch had other samples, or other bytes.
    """
    start, cpu = since or (time.perf_counter(), cpu_seconds())
    clock = StepClock(step_s)
    receiver = _Receiver(copies=step_s > 0)
    first_s: float | None = None
    for batch in batches:
        if first_s is None:
            first_s = time.perf_counter() - start
        clock.step(functools.partial(receiver.take, {name: batch[name] for name in given.shapes}))
    elapsed_s = time.perf_counter() - start
    cpu_s = cpu_seconds() - cpu
    if receiver.samples != given.samples:
        raise RuntimeError(f"an epoch held {receiver.samples} samples instead of {given.samples}")
    if given.digest is not None and receiver.digest != given.digest:
        raise RuntimeError("an epoch held other bytes than the samples")
    return Cost(
        elapsed_s,
        cpu_s,
        receiver.nbytes,
        receiver.samples,
        first_batch_s=first_s,
        utilisation=clock.utilisation(),
    )


class _Receiver:
    """The end of batches: looks at every page, and copies to memory that is kept if asked to."""

    def __init__(self, *, copies: bool) -> None:
        self.nbytes = self.samples = self.digest = 0
        self._copies: dict[str, npt.NDArray[Any]] | None = {} if copies else None

    def take(self, batch: Batch) -> None:
        """Take a batch."""
        for name, tensor in batch.items():
            values = tensor.numpy()
            if self._copies is not None:
                if name not in self._copies or len(self._copies[name]) < len(values):
                    self._copies[name] = np.empty_like(values)
                # By one thread: torch would wake a team of them, which no device does.
                np.copyto(self._copies[name][: len(values)], values)
            self.digest += digest_of(values)
            self.nbytes += tensor.nbytes
        self.samples += len(next(iter(batch.values())))


def digest_of(values: npt.NDArray[np.float32]) -> int:
    """Return the sum of the bits of one number per page, sample by sample.

    The sum over an epoch does not depend on the order of samples.

    Args:
        values: float32[B, ...], samples along the first dimension.
    """
    rows = values.reshape(len(values), -1).view(np.int32)
    return int(rows[:, ::_PAGE_NUMBERS].sum(dtype=np.int64))


def cut_sample(
    sample: Mapping[str, npt.NDArray[Any]], cut: Cut | None, rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    """Take the part of a whole sample that a step needs, as tensors."""
    arrays = dict(sample)
    if cut is not None:
        name = next(iter(arrays))
        box = draw_box(arrays[name].shape, cut, rng)
        arrays = {name: np.ascontiguousarray(values[box]) for name, values in arrays.items()}
    with warnings.catch_warnings():
        # Some libraries give arrays that cannot be written; nobody does, they are stacked.
        warnings.simplefilter("ignore", UserWarning)
        return {name: torch.from_numpy(values) for name, values in arrays.items()}


def draw_box(shape: tuple[int, ...], cut: Cut, rng: np.random.Generator) -> tuple[slice, ...]:
    """Draw the place of a part: a cube in the first three dimensions, or a run of the first."""
    kind, size = cut
    extents = shape[:3] if kind == "crop" else shape[:1]
    firsts = [int(rng.integers(extent - size + 1)) for extent in extents]
    return tuple(slice(first, first + size) for first in firsts)
