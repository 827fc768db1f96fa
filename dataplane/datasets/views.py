"""Views: what torch's own wrappers show of packed datasets, as samples of these by number.

`Subset` (and so `random_split`) and `ConcatDataset`, nested in any way, only say which samples of
which dataset they hold. A view says the same in two columns, so whoever reads packed samples reads
those of a view as fast. `packed_inside` finds the packed datasets that other code reads itself.

Values: not changed once made, picklable, safe from any thread.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import ConcatDataset, IterableDataset, Subset

from dataplane.cache import Cache, PlannedRead, PlannedTable
from dataplane.datasets.dataset import Dataset
from dataplane.datasets.draws import Draws
from dataplane.datasets.layout import ArrayLayout, joint_layouts
from dataplane.datasets.looks import Looked, looks_of
from dataplane.datasets.mixture import Mix
from dataplane.datasets.plan import SamplePlan
from dataplane.datasets.reader import SAMPLE_ERRORS, SampleReader
from dataplane.datasets.samples import FetchedSample
from dataplane.errors import ConfigError
from dataplane.stores.base import ObjectInfo

__all__ = [
    "FetchedBatch",
    "View",
    "ViewReader",
    "packed_inside",
    "packed_leaves",
    "split_look",
    "view_of",
]

_DEPTH = 4
"""Steps from attribute to attribute in which `packed_inside` looks for datasets."""

_REPEAT_BITS = 40
"""An order takes fewer looks at a sample in an epoch than this many bits count."""

_LOOK_BITS = 48
"""Looks of a view's datasets are this far apart: of one that stands there twice, too."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Samples of packed datasets, in an order of their own.

    Attributes:
        datasets: packed datasets that they are of, at least one.
        numbers: number of each sample in its dataset, int64[n]; None where it is one dataset whole.
        which: dataset of each sample, int32[n]; None where there is only one.
        sources: name of the source that each dataset is of, in a mix; else None.
    """

    datasets: tuple[Dataset, ...]
    numbers: npt.NDArray[np.int64] | None = None
    which: npt.NDArray[np.int32] | None = None
    sources: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.datasets[0]) if self.numbers is None else len(self.numbers)

    def all_numbers(self) -> npt.NDArray[np.int64]:
        """Return the number of each sample in its dataset: int64[n]."""
        return np.arange(len(self), dtype=np.int64) if self.numbers is None else self.numbers

    def all_which(self) -> npt.NDArray[np.int32]:
        """Return the dataset of each sample: int32[n]."""
        return np.zeros(len(self), np.int32) if self.which is None else self.which

    @property
    def identity(self) -> str:
        """Name of the samples and their order, as `Dataset.identity`."""
        if self.numbers is None and self.which is None:
            return self.datasets[0].numbered_identity
        digest = hashlib.blake2b(digest_size=8)
        for dataset in self.datasets:
            digest.update(dataset.numbered_identity.encode())
        digest.update(self.all_numbers().tobytes())
        digest.update(self.all_which().tobytes())
        return digest.hexdigest()

    def shards(self) -> npt.NDArray[np.int64]:
        """Return the number of the shard that each sample lies in, over all datasets: int64[n]."""
        found = np.empty(len(self), np.int64)
        which, numbers = self.all_which(), self.all_numbers()
        first: dict[str, int] = {}  # by URL: a dataset may be there several times
        count = 0
        for place, dataset in enumerate(self.datasets):
            if dataset.url not in first:
                first[dataset.url] = count
                count += len(dataset.index.chunks.shards)
            is_of = which == place
            samples = dataset.numbering.split_many(numbers[is_of])[0]
            found[is_of] = dataset.index.chunks.shard_of(samples)
            found[is_of] += first[dataset.url]
        return found

    def has_samples_of(self, other: View) -> bool:
        """Whether `other` has the same samples, in the same order."""
        return self is other or (
            self.datasets == other.datasets
            and np.array_equal(self.all_numbers(), other.all_numbers())
            and np.array_equal(self.all_which(), other.all_which())
        )

    @property
    def looks(self) -> int:
        """Looks that one dataset, whole, takes at each of its samples; 1 of any other view."""
        is_whole = self.numbers is None and self.which is None
        return self.datasets[0].samples_per_read if is_whole else 1

    @property
    def is_random(self) -> bool:
        """Whether a selection of theirs draws at random."""
        return any(dataset.is_random for dataset in self.datasets)

    @property
    def layouts(self) -> tuple[ArrayLayout, ...]:
        """Layout of each array in a batch, over all samples that can meet there."""
        return joint_layouts([dataset.layouts for dataset in self.datasets])

    def locate(self, positions: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the dataset of each of some samples, and its number there."""
        chosen = list(positions)
        numbers = chosen if self.numbers is None else self.numbers[chosen].tolist()
        return [0] * len(chosen) if self.which is None else self.which[chosen].tolist(), numbers

    def _select(self, indices: npt.NDArray[np.int64]) -> View:
        which = None if self.which is None else self.which[indices]
        return View(self.datasets, self.all_numbers()[indices], which)


def view_of(dataset: object) -> View | None:
    """Return the view that a dataset is, or None where it is none.

    A subclass of `Dataset` with a `__getitem__` or `__getitems__` of its own is none: its code has
    to run. Nor is a `ConcatDataset` of datasets with different arrays.

    Raises:
        ConfigError: a mix is inside of another dataset, which would make nothing of its order.
    """
    if isinstance(dataset, Dataset):
        return View((dataset,)) if dataset.reads_as_packed else None
    if type(dataset) is Subset:
        _check_no_mix(dataset, [dataset.dataset])
        whole = view_of(dataset.dataset)
        if whole is None:
            return None
        indices = np.asarray(dataset.indices)
        if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
            return None
        indices = indices.astype(np.int64)
        if ((indices < -len(whole)) | (indices >= len(whole))).any():
            return None  # torch's own code says so when it meets it
        return whole._select(np.where(indices < 0, indices + len(whole), indices))
    if type(dataset) in (ConcatDataset, Mix):
        assert isinstance(dataset, ConcatDataset)
        _check_no_mix(dataset, dataset.datasets)
        views = [view_of(part) for part in dataset.datasets]
        found = [view for view in views if view is not None]
        joined = _joined(found) if len(found) == len(views) else None
        if joined is None or not isinstance(dataset, Mix):
            return joined
        pairs = zip(dataset.names, found, strict=True)
        sources = tuple(name for name, view in pairs for _ in view.datasets)
        return replace(joined, sources=sources)
    return None


def _check_no_mix(dataset: object, parts: Sequence[object]) -> None:
    if any(isinstance(part, Mix) for part in parts):
        raise ConfigError(
            f"a {type(dataset).__name__} of a mix has lost its proportions",
            hint="make Subsets and ConcatDatasets of its sources, and mix these",
        )


def _joined(views: Sequence[View]) -> View | None:
    datasets: list[Dataset] = []
    numbers, which = [], []
    for view in views:
        numbers.append(view.all_numbers())
        which.append(view.all_which() + np.int32(len(datasets)))
        datasets += view.datasets
    if len({dataset.array_names for dataset in datasets}) != 1:
        return None
    return View(tuple(datasets), np.concatenate(numbers), np.concatenate(which))


def packed_leaves(dataset: Any) -> list[Dataset]:
    """Return the datasets of `view_of(dataset)`, which must not be None, in its order."""
    if type(dataset) is Subset:
        return packed_leaves(dataset.dataset)
    if type(dataset) in (ConcatDataset, Mix):
        return [leaf for part in dataset.datasets for leaf in packed_leaves(part)]
    return [dataset]


def packed_inside(dataset: object) -> list[Dataset]:
    """Return the packed datasets that a dataset holds in its attributes, or is.

    They are in no particular order, and those that cannot be found so are missing: this is to
    fetch their bytes ahead, not to read them.
    """
    found: dict[int, Dataset] = {}
    seen: set[int] = set()

    def look(value: object, depth: int) -> None:
        if id(value) in seen or depth > _DEPTH:
            return
        seen.add(id(value))
        if isinstance(value, Dataset):
            found[id(value)] = value
        elif type(value) is dict:  # another mapping's values may cost a read each
            for item in list(value.values())[:64]:
                look(item, depth + 1)
        elif isinstance(value, (list, tuple)):
            for item in value[:64]:
                look(item, depth + 1)
        elif not isinstance(value, type):
            for item in list(getattr(value, "__dict__", {}).values()):
                look(item, depth + 1)

    if not isinstance(dataset, IterableDataset):
        look(dataset, 0)
    return list(found.values())


@dataclass(frozen=True, slots=True, eq=False)
class FetchedBatch:
    """Samples of a batch that were read and not yet decoded.

    Attributes:
        samples: samples, in order.
        which: dataset of the view that each is of.
        places: which of those that were asked for each one is, or replaces, from 0 on; None where
            all are there.
    """

    samples: Sequence[FetchedSample]
    which: list[int]
    places: list[int] | None = None


class ViewReader:
    """Reader of the samples of a view, in one pass. Thread-safe.

    Args:
        view: view.
        draws: what random selections draw from.
    """

    def __init__(self, view: View, draws: Draws | None = None) -> None:
        self.layouts = view.layouts
        self._draws = draws if view.is_random else None
        self.sources = view.sources
        self._readers = [dataset.reader() for dataset in view.datasets]
        if self._draws is not None:
            # A dataset that stands in a view twice is looked at twice.
            self._readers = [
                reader.drawing(replace(self._draws, look=place << _LOOK_BITS))
                for place, reader in enumerate(self._readers)
            ]
        self._whole = view.numbers is None and view.which is None
        self._length = len(view)
        # 12 bytes per sample, of which a dataset that is read whole needs none.
        self._numbers = np.zeros(0, np.int64) if self._whole else view.all_numbers()
        self._which = np.zeros(0, np.int32) if self._whole else view.all_which()

    @property
    def cache(self) -> Cache | None:
        """Cache that the samples are read through, or None."""
        return self._readers[0].runtime.cache

    @property
    def mean_sample_bytes(self) -> int:
        """Stored size of a sample with all its arrays, on average."""
        return max(reader.mean_sample_bytes for reader in self._readers)

    def is_of(self, other: ViewReader) -> bool:
        """Whether `other` reads the same samples, with draws of the same seed, in some epoch."""
        seeds = [None if draws is None else draws.seed for draws in (self._draws, other._draws)]
        return (
            seeds[0] == seeds[1]
            and len(self._readers) == len(other._readers)
            and self._whole == other._whole
            and all(a.is_of(b) for a, b in zip(self._readers, other._readers, strict=True))
            and np.array_equal(self._numbers, other._numbers)
            and np.array_equal(self._which, other._which)
        )

    def fetch(self, positions: Sequence[int]) -> FetchedBatch:
        """Read the bytes of samples, recovered by the policy where they cannot be read.

        Raises:
            DataplaneError: a sample cannot be read and the policy is to raise.
        """
        try:
            if self._whole:
                whole = self._readers[0].fetch_all(positions)
                return FetchedBatch(whole, [0] * len(whole))
            which = self._which[list(positions)].tolist()
            found: dict[int, Iterator[FetchedSample]] = {}
            for place, numbers in self._by_dataset(positions):
                of_dataset = self._readers[place].fetch_all(numbers)
                if len(of_dataset) == len(positions):
                    return FetchedBatch(of_dataset, which)
                found[place] = iter(of_dataset)
            return FetchedBatch([next(found[place]) for place in which], which)
        except SAMPLE_ERRORS:
            return self.recover(positions)

    def trace(
        self, which: int, number: int, look: int = 0
    ) -> tuple[SamplePlan, int | None, ObjectInfo]:
        """Return the plan of a sample of a dataset, its draw or None, and its shard.

        Raises:
            DataplaneError: it has no plan.
        """
        return self._readers[which].trace(number, look)

    def recover(self, positions: Sequence[int]) -> FetchedBatch:
        """Read samples one by one, check that each decodes, and apply the policy to the others.

        What replaces a sample is the next one of the view.

        Raises:
            DataplaneError: as `fetch`.
            LoaderError: too many samples in a row had to be replaced.
        """
        samples, which, places = [], [], []
        looks = self.looks(positions) or [0] * len(positions)
        for place, (position, look) in enumerate(zip(positions, looks, strict=True)):
            tried: list[int] = []
            reader = self._readers[self._which_of(position)]
            sample = reader.first_sound(self._from(position, tried), look)
            if sample is not None:
                samples.append(sample)
                which.append(tried[-1])
                places.append(place)
        return FetchedBatch(samples, which, places)

    def _from(self, position: int, tried: list[int]) -> Iterator[tuple[SampleReader, int]]:
        """Yield the readers and numbers of a sample and of all after it, and note which dataset."""
        for place in itertools.chain(range(position, self._length), range(position)):
            tried.append(self._which_of(place))
            yield self._readers[tried[-1]], place if self._whole else int(self._numbers[place])

    def _which_of(self, position: int) -> int:
        """Return which dataset the sample at a position is of."""
        return 0 if self._whole else int(self._which[position])

    def planned_many(
        self, batches: Sequence[Sequence[int]], first_step: int, epoch: int = 0
    ) -> Iterator[PlannedRead | PlannedTable]:
        """Yield the reads of several batches, each of a step, for the cache to make in advance."""
        if self._whole:
            yield from self._readers[0].planned_many(batches, first_step, epoch)
        elif len(self._readers) == 1:
            numbers = [self._looked(batch) for batch in batches]
            yield from self._readers[0].planned_many(numbers, first_step, epoch)
        else:
            for step, batch in enumerate(batches, first_step):
                for place, of_place in self._by_dataset(batch):
                    yield from self._readers[place].planned_many([of_place], step, epoch)

    def _by_dataset(self, positions: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Yield samples of one dataset together, in order: (dataset, numbers in it)."""
        which = self._which[list(positions)]
        numbers = self._numbers[list(positions)]
        looks = self.looks(positions)
        for place in np.unique(which).tolist():
            of_place = numbers[which == place].tolist()
            if looks is not None:
                of_place = Looked(of_place, np.asarray(looks)[which == place].tolist())
            yield place, of_place

    def _looked(self, positions: Sequence[int]) -> list[int]:
        """Return the numbers of samples, with looks if they have any."""
        numbers: list[int] = self._numbers[list(positions)].tolist()
        looks = self.looks(positions)
        return numbers if looks is None else Looked(numbers, looks)

    def looks(self, positions: Sequence[int]) -> Sequence[int] | None:
        """Return which look each sample is, for selections that draw; see `told_apart`."""
        return looks_of(positions) if self._draws is None else self.told_apart(positions)

    def told_apart(self, positions: Sequence[int]) -> Sequence[int] | None:
        """Return which look each sample is: by its order, and by how often the view names it.

        None where no sample comes twice.
        """
        looks = looks_of(positions)
        if self._repeats is None:
            return looks
        repeats: list[int] = (self._repeats[list(positions)] << _REPEAT_BITS).tolist()
        return repeats if looks is None else [a + b for a, b in zip(looks, repeats, strict=True)]

    @functools.cached_property
    def _repeats(self) -> npt.NDArray[np.int64] | None:
        return None if self._whole else _repeats(self._numbers, self._which)


def split_look(look: int) -> tuple[int, int]:
    """Return how often a view names a sample before, and which look at it its order gave."""
    return look >> _REPEAT_BITS, look & ((1 << _REPEAT_BITS) - 1)


def _repeats(
    numbers: npt.NDArray[np.int64], which: npt.NDArray[np.int32]
) -> npt.NDArray[np.int64] | None:
    """Return how often a view names each of its samples before: int64[n]; None if it never does."""
    order = np.lexsort((numbers, which))
    is_new = np.ones(len(order), bool)
    same = (np.diff(numbers[order]) == 0) & (np.diff(which[order]) == 0)
    is_new[1:] = ~same
    if is_new.all():
        return None
    place = np.arange(len(order))
    first = np.maximum.accumulate(np.where(is_new, place, 0))
    repeats = np.empty(len(order), np.int64)
    repeats[order] = place - first
    return repeats
