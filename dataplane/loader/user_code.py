"""The user's code of a loader, as a worker runs it: dataset, transform and collate_fn.

Each worker has its own copy of all three, made together, so that what they share they share in the
copy too, and nothing is shared between workers: as with torch's worker processes. How copies are
made says `user_copies.py`, which worker has what `workers.py`.

In the training thread (`num_workers=0`) the user's own objects run, as with torch.

Each call sees random number streams that are a function of (seed, epoch, sample); see
`random_streams.py`. A `Worker` belongs to one thread at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from torch.utils.data import StackDataset, Subset, default_collate

from dataplane.datasets.collation import LayoutCollate
from dataplane.datasets.dataset import Dataset
from dataplane.datasets.draws import Draws, active, draw_from
from dataplane.datasets.mixture import with_source
from dataplane.datasets.reader import MAX_REPLACEMENTS
from dataplane.datasets.samples import KEY
from dataplane.datasets.views import packed_inside, packed_leaves
from dataplane.errors import DataplaneError, LoaderError
from dataplane.loader.random_streams import Streams, ThreadStreams, mix
from dataplane.loader.worker_info import make_worker_info, shown_worker_info
from dataplane.telemetry import logger

__all__ = [
    "NOTHING_LEFT",
    "Task",
    "UserCode",
    "Worker",
    "WorkerSetup",
]


@dataclass(frozen=True, slots=True)
class UserCode:
    """What a user gave a loader that runs per sample or per batch.

    Attributes:
        dataset: dataset, with its transforms.
        collate: function from a list of samples to a batch, or from one sample to what is yielded.
        collate_bulk: function from a list of samples to a batch, where an order of single samples
            gave a list.
        worker_init: function of a worker's number, called in each worker before its first batch.
    """

    dataset: Any
    collate: Callable[[Any], Any]
    collate_bulk: Callable[[Any], Any]
    worker_init: Callable[[int], object] | None


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a worker needs to know of its pass.

    Attributes:
        id: number of the worker; None in the training thread.
        num_workers: number of workers.
        seed: seed of the pass.
        epoch: epoch, as far as it takes part in the seeds.
        single: whether samples are yielded, not batches.
        is_packed: whether samples come decoded, and only transforms are to be called; otherwise
            the dataset is asked for them.
        repeats: whether the order may give a sample twice; the place in the order then takes part
            in the seeds.
        keys: whether samples have their keys.
    """

    id: int | None
    num_workers: int
    seed: int
    epoch: int
    single: bool
    is_packed: bool
    repeats: bool
    keys: bool = True


@dataclass(frozen=True, slots=True)
class Task:
    """A batch to be made.

    Attributes:
        first: place of its first sample in the order of this rank.
        indices: indices of its samples.
        is_bulk: whether an order of single samples gave a list of indices in the place of one.
        samples: its samples, decoded; None where the dataset is asked for them.
        which: for each of `samples` the dataset that it is of, where there are several.
        numbers: for each of `samples` its number in that dataset.
        looks: for each sample what tells it apart from others of the same in its epoch; empty
            where there are none.
        sources: for each of `samples` the name of its source; empty but in a mix.
    """

    first: int
    indices: list[int]
    is_bulk: bool = False
    samples: list[Any] | None = None
    which: Sequence[int] = ()
    numbers: Sequence[int] = ()
    looks: Sequence[int] = ()
    sources: Sequence[str] = ()


class Worker:
    """One worker and its copy of the user's code."""

    def __init__(
        self, code: UserCode, setup: WorkerSetup, streams: Streams, lock: Any = None
    ) -> None:
        self._code = code
        self._streams = streams
        self._lock = contextlib.nullcontext() if lock is None else lock
        self._started = setup.id is None
        self._info: Any = None
        if setup.is_packed:
            self._leaves = packed_leaves(code.dataset)
        self._several = None if setup.is_packed else _several(code.dataset)
        self.begin(setup)

    def begin(self, setup: WorkerSetup) -> None:
        """Begin a pass."""
        self._setup = setup
        if setup.id is not None:
            self._info = make_worker_info(
                id=setup.id,
                num_workers=setup.num_workers,
                seed=(mix(setup.seed, setup.epoch) + setup.id) % 2**63,
                dataset=self._code.dataset,
                rng=(
                    _Generators(self._streams) if isinstance(self._streams, ThreadStreams) else None
                ),
                worker_method=(
                    "thread" if isinstance(self._streams, ThreadStreams) else "multiprocessing"
                ),
            )

    @property
    def is_usable(self) -> bool:
        """True: a worker of this process is as long as that."""
        return True

    def run(self, task: Task) -> Any:
        """Make the batch of a task, and start the worker before the first.

        Raises:
            Exception: what the user's code raised.
        """
        shown = contextlib.nullcontext() if self._info is None else shown_worker_info(self._info)
        with self._lock, shown, self._streams.active(), active():
            if not self._started:
                self._streams.seed(self._info.seed)
                if self._code.worker_init is not None:
                    self._code.worker_init(self._setup.id or 0)
                self._started = True
            return self._made(task)

    def _made(self, task: Task) -> Any:
        content = self._samples(task)
        if content is NOTHING_LEFT:
            return NOTHING_LEFT
        self._seed(task, 0, collating=True)
        if task.is_bulk and self._setup.single:
            content = self._code.collate_bulk(content)
        elif self._setup.single:
            content = content[0]
        if isinstance(self._streams, ThreadStreams) and _is_torch_s(self._code.collate):
            # In a worker it would make batches in shared memory, for another process.
            with shown_worker_info(None):
                return self._code.collate(content)
        return self._code.collate(content)

    def _samples(self, task: Task) -> Any:
        if task.samples is not None:
            made: Iterable[Any] = (self._transformed(task, at) for at in range(len(task.samples)))
            if task.sources:
                made = map(with_source, made, task.sources)
            return _kept(made)
        if self._several is not None and not self._setup.single:
            self._seed(task, 0)
            draw_from(Draws(self._setup.seed, self._setup.epoch), task.indices, task.looks)
            return self._several(task.indices)
        return _kept(self._asked_for(task, at) for at in range(len(task.indices)))

    def _asked_for(self, task: Task, at: int) -> Any:
        """Return a sample of a dataset that reads packed samples itself."""
        self._seed(task, at)
        try:
            return self._code.dataset[task.indices[at]]
        except Exception as err:
            blamed = self._blamed(err, task.indices[at])
            if blamed is None or blamed.transform_errors == "raise":
                raise
            _report(blamed, err)
            if blamed.transform_errors == "skip":
                return _LEFT_OUT
            return self._replacement(blamed, task, at)

    def _blamed(self, err: Exception, index: object) -> Dataset | None:
        """Return the packed dataset whose code of the user's has failed, and whose policy counts.

        None where that is code of a class of the user's that has no policy, or no code of his: a
        store that is down, a function that is refused, an index that is none.
        """
        dataset = self._code.dataset
        if isinstance(err, DataplaneError) or not isinstance(index, Integral):
            return None
        if not hasattr(dataset, "__len__"):
            return None  # nor could anything be told to replace a sample
        if isinstance(err, IndexError) and not -len(dataset) <= int(index) < len(dataset):
            return None
        return _failed_dataset(err)

    def _transformed(self, task: Task, at: int) -> Any:
        assert task.samples is not None
        leaf = self._leaves[task.which[at] if task.which else 0]
        if leaf.transform is None:
            return task.samples[at]
        self._seed(task, at)
        try:
            return leaf.transformed(task.samples[at])
        except Exception as err:
            if leaf.transform_errors == "raise" or isinstance(err, DataplaneError):
                raise
            _report(leaf, err)
            if leaf.transform_errors == "skip":
                return _LEFT_OUT
            return self._replacement(leaf, task, at)

    def _replacement(self, blamed: Dataset, task: Task, at: int) -> Any:
        """Return the next sample of the dataset whose transform does not fail."""
        dataset = self._code.dataset
        count = len(dataset)
        position = task.indices[at]
        if isinstance(dataset, Dataset):  # other looks at the sample would fail as well
            sample_number = dataset.numbering.split(position)[0]
            position = dataset.numbering.range_of(sample_number).stop - 1
        tries = min(count, MAX_REPLACEMENTS)
        for ahead in range(1, tries):
            self._seed(task, at)
            try:
                sample = dataset[(position + ahead) % count]
            except Exception as err:
                if isinstance(err, DataplaneError):
                    raise
                _report(blamed, err)
                continue
            if not self._setup.keys and isinstance(sample, dict):
                sample.pop(KEY, None)
            return sample
        raise LoaderError(
            f"the transform fails for {tries} samples from number {position} on, so none can "
            "replace it",
            hint="see the log for each of them",
        )

    def _seed(self, task: Task, at: int, *, collating: bool = False) -> None:
        """Give the streams the state of a sample, or of the batch that begins with it."""
        setup = self._setup
        which = task.which[at] if task.which else 0
        number = task.numbers[at] if task.numbers else 0
        if not task.numbers and task.indices:
            number = _number(task.indices[at])
        place = task.looks[at] if task.looks else 0
        if setup.repeats:
            place = task.first + at + 1
        self._streams.seed(mix(setup.seed, setup.epoch, which, number, place, int(collating)))
        # For the selections of packed datasets that the user's own code reads.
        draw_from(Draws(setup.seed, setup.epoch, task.looks[at] if task.looks else 0))


def _is_torch_s(collate: object) -> bool:
    """Whether a batch is made by torch's `default_collate`, or by ours, which calls it."""
    return collate is default_collate or isinstance(collate, LayoutCollate)


def _number(index: object) -> int:
    """Return a number for an index of any kind, the same in every process."""
    try:
        return operator.index(index)  # type: ignore[arg-type]  # asked
    except TypeError:
        return int.from_bytes(hashlib.blake2b(repr(index).encode(), digest_size=8).digest())


class _NothingLeft:
    """What a worker returns in the place of a batch whose samples were all left out."""

    def __reduce__(self) -> str:
        return "NOTHING_LEFT"


NOTHING_LEFT = _NothingLeft()
_LEFT_OUT = object()


def _kept(made: Iterable[Any]) -> Any:
    """Return the samples that no policy has left out, or `NOTHING_LEFT` of some."""
    samples = list(made)
    kept = [sample for sample in samples if sample is not _LEFT_OUT]
    return kept if kept or not samples else NOTHING_LEFT


def _failed_dataset(err: Exception) -> Dataset | None:
    """Return the packed dataset in whose transform or own `__getitem__` an error was raised."""
    step = err.__traceback__
    while step is not None:
        frame = step.tb_frame
        if frame.f_code.co_name in ("transformed", "__getitem__"):
            found = frame.f_locals.get("self")
            if isinstance(found, Dataset):
                return found
        step = step.tb_next
    return None


def _report(dataset: Dataset, err: Exception) -> None:
    done = "skipped" if dataset.transform_errors == "skip" else "replaced"
    dataset.counters.add(f"dataset_samples_{done}", 1)
    notes = "; ".join(getattr(err, "__notes__", []))
    logger.warning("left out a sample: %s: %s (%s)", type(err).__name__, err, notes)


@dataclass(frozen=True, slots=True)
class _Generators:
    """A thread's generators, as torch's description of a worker names them."""

    streams: ThreadStreams

    @property
    def random_generator(self) -> Any:
        return self.streams.python

    @property
    def torch_generator(self) -> Any:
        return self.streams.torch

    @property
    def numpy_generator(self) -> Any:
        return self.streams.numpy


def _several(dataset: Any) -> Callable[[list[int]], Any] | None:
    """Return a dataset's own way to give several samples, if it has one.

    None for torch's stack of datasets with transforms, whose draws are to be of each sample's own.
    """
    if type(dataset) is StackDataset and any(
        one.transform is not None for one in packed_inside(dataset)
    ):
        return None
    if type(dataset) is Subset:  # which has one only to pass the question on
        return dataset.__getitems__ if _several(dataset.dataset) is not None else None
    if isinstance(dataset, Dataset) and type(dataset).__getitems__ is Dataset.__getitems__:
        return None  # which asks for each as well
    several = getattr(dataset, "__getitems__", None)
    return several if callable(several) else None
