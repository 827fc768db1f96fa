"""Reader of the samples of a dataset, with the error policy for those that cannot be read.

The fast path plans, reads and decodes whole batches and knows nothing of policies. When something
in a batch is wrong, `recover` goes through it sample by sample. A sample whose chunks do not decode
is first read again straight from the store, since the copy in the cache may be what is broken; what
fails even then is corrupt at its source, or missing, and the policy decides:

- `raise`: the error goes to the caller (default);
- `skip`: the sample is left out and the batch is smaller; a batch that loses all its samples is
  left out;
- `replace`: the next sample of the dataset by index, around its end, takes the place.

Either way the place in the order counts as consumed, so resuming stays exact. Each sample left out
or replaced is counted and logged with key, shard and offset. Only samples that are corrupt or
missing fall under the policy; a store that refuses, is down or has its objects changed does not.

Thread-safe; one instance per process.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from dataplane.buffers import shared_pool
from dataplane.cache import CachedObject, PlannedRead, PlannedTable
from dataplane.datasets.draws import AnyDraws
from dataplane.datasets.in_place import MIN_VIEWED_SHARE, mapped_sample, viewed_sample
from dataplane.datasets.layout import ArrayLayout
from dataplane.datasets.looks import each_look, joined_looks
from dataplane.datasets.plan import Planner, SamplePlan
from dataplane.datasets.runtime import UINT8, Runtime
from dataplane.datasets.samples import FetchedSample, FetchedTogether, separate_arrays
from dataplane.errors import (
    ConfigError,
    DataplaneError,
    DecodeError,
    FormatError,
    LoaderError,
    MissingArray,
    NotFound,
)
from dataplane.stores.base import ObjectInfo
from dataplane.telemetry import Counters, logger

__all__ = [
    "SAMPLE_ERRORS",
    "ErrorPolicy",
    "SampleReader",
    "check_policy",
]

ErrorPolicy: TypeAlias = Literal["raise", "skip", "replace"]

SAMPLE_ERRORS = (DecodeError, FormatError, NotFound, MissingArray)
"""Errors that make a single sample unreadable, as opposed to a store or a cache."""

MAX_TOGETHER_BYTES = 256 << 10
"""Most bytes of a sample that is read together with others: copying so much costs little."""

MAX_REPLACEMENTS = 64
"""Most samples in a row that may be replaced by the next; beyond, the dataset counts as broken."""


def check_policy(policy: str, name: str = "errors") -> ErrorPolicy:
    """Return `policy` as one of the three.

    Raises:
        ConfigError: it is none of them.
    """
    for known in get_args(ErrorPolicy):
        if policy == known:
            return known  # type: ignore[no-any-return]  # get_args of a Literal is typed as Any
    raise ConfigError(f'{name} must be "raise", "skip" or "replace", got {policy!r}')


class SampleReader:
    """Reader of samples: plans, reads and, if need be, recovers them. See the module's text.

    Args:
        runtime: runtime that bytes come from.
        planner: planner of the dataset.
        layouts: layouts of the selected arrays.
        policy: error policy for samples that cannot be read.
        counters: counters for `dataset_samples_skipped`, `…_replaced`, `…_reread`.
        draws: what random selections draw from; None where there are none.

    Attributes:
        draws: likewise.
    """

    def __init__(
        self,
        runtime: Runtime,
        planner: Planner,
        layouts: Sequence[ArrayLayout],
        *,
        policy: ErrorPolicy,
        counters: Counters,
        draws: AnyDraws | None = None,
    ) -> None:
        self.runtime = runtime
        self.planner = planner
        self.layouts = layouts
        self.policy = policy
        self._length = len(planner.numbering)
        self._counters = counters
        self.draws = draws if planner.is_random else None

    def drawing(self, draws: AnyDraws | None, policy: ErrorPolicy | None = None) -> SampleReader:
        """Return this reader with draws of its own, and perhaps another policy."""
        return SampleReader(
            self.runtime,
            self.planner,
            self.layouts,
            policy=self.policy if policy is None else policy,
            counters=self._counters,
            draws=draws,
        )

    def is_of(self, other: SampleReader) -> bool:
        """Whether `other` reads the same samples of the same dataset, whatever it draws."""
        return self.planner is other.planner

    @property
    def mean_sample_bytes(self) -> int:
        """Stored size of a sample with all its arrays, on average; of a part, at most that."""
        return self.runtime.stored_bytes // max(self.planner.numbering.samples, 1)

    def fetch(self, indices: Sequence[int]) -> Sequence[FetchedSample]:
        """Read the bytes of samples, recovered by the policy where they have no plan.

        Small samples come as a `FetchedTogether`, read and planned together.

        Args:
            indices: numbers of the dataset, perhaps `Looked`.

        Raises:
            DataplaneError: a sample cannot be read and the policy is to raise.
        """
        try:
            return self.fetch_all(indices)
        except SAMPLE_ERRORS:
            return self.recover(indices)

    def fetch_all(self, indices: Sequence[int]) -> Sequence[FetchedSample]:
        """Read the bytes of samples, all of them.

        Raises:
            DataplaneError: a sample cannot be read.
        """
        together = self._fetch_together(indices)
        if together is not None:
            return together
        return [self._fetch(plan) for plan in self._plans(indices)]

    def recover(self, indices: Sequence[int]) -> list[FetchedSample]:
        """Read samples one by one, check that each decodes, and apply the policy to the others.

        Raises:
            DataplaneError: as `fetch`.
            LoaderError: too many samples in a row had to be replaced.
        """
        recovered = [
            self.first_sound(
                ((self, (index + ahead) % self._length) for ahead in range(self._length)), look
            )
            for index, look in zip(indices, each_look(indices), strict=True)
        ]
        return [sample for sample in recovered if sample is not None]

    def first_sound(
        self, candidates: Iterable[tuple[SampleReader, int]], look: int = 0
    ) -> FetchedSample | None:
        """Return the first of some samples that can be read, if the policy tries any further.

        Args:
            candidates: the sample that was asked for, then those that may replace it.
            look: which look at the sample this is.

        Raises:
            DataplaneError: the first cannot be read and the policy is to raise.
            LoaderError: too many in a row cannot.
        """
        tried: list[int] = []
        for reader, index in itertools.islice(_other_samples(candidates), MAX_REPLACEMENTS):
            try:
                return reader._verified(index, look)
            except SAMPLE_ERRORS as err:
                if self.policy == "raise":
                    raise
                self._report(reader, index, err)
                if self.policy == "skip":
                    return None
                tried.append(index)
        raise LoaderError(
            f"{len(tried)} samples from number {tried[0]} on cannot be read, so none can replace "
            "it",
            hint="see the log for each of them; the dataset is damaged",
        )

    def trace(self, index: int, look: int = 0) -> tuple[SamplePlan, int | None, ObjectInfo]:
        """Return the plan of a sample, its draw, and its shard; no byte of it is read.

        Returns:
            The draw is None where nothing is drawn.

        Raises:
            DataplaneError: it has no plan.
        """
        draw = None if self.draws is None else self._draw(index, look)
        plan = self.planner.plan(index, draw=draw or 0)
        return plan, draw, self.runtime.describe(plan.shard)

    def planned(self, index: int, step: int, epoch: int = 0, *, look: int = 0) -> list[PlannedRead]:
        """Return the reads of a sample for the cache to make in advance.

        A sample without a plan gives none: its error belongs to the step that needs it.
        """
        try:
            plan = self.planner.plan(index, draw=self._draw(index, look, epoch))
            source = self.runtime.object(plan.shard)
        except SAMPLE_ERRORS:
            return []
        if source is None:
            return []
        return [PlannedRead(source, start, stop, step, epoch) for start, stop in plan.spans]

    def planned_many(
        self, batches: Sequence[Sequence[int]], first_step: int, epoch: int = 0
    ) -> Iterator[PlannedRead | PlannedTable]:
        """Yield the reads of several batches, each of a step, as `planned` does for a sample.

        Args:
            batches: numbers of the dataset; a batch may be `Looked`.
            first_step: step of the first batch.
            epoch: how many epochs later than this reader's draws they are read.
        """
        indices = [index for batch in batches for index in batch]
        counts = [len(batch) for batch in batches]
        steps = np.repeat(np.arange(first_step, first_step + len(batches)), counts)
        forms = self.planner.forms
        if forms is None or not self._are_samples(indices):
            places = np.full((len(indices), 4), -1)
        else:
            places = forms.find(np.array(indices, np.int64))
        has = places[:, 0] >= 0
        for run in np.split(np.arange(len(indices)), np.flatnonzero(has[1:] != has[:-1]) + 1):
            if has[run].any():
                yield self._planned_together(places[run], steps[run], epoch)
                continue
            looks = joined_looks(batches) if self.draws is not None else None
            for place in run.tolist():
                look = 0 if looks is None else int(looks[place])
                yield from self._planned_alone(indices[place], int(steps[place]), epoch, look)

    def _planned_alone(self, index: int, step: int, epoch: int, look: int) -> list[PlannedRead]:
        try:
            return self.planned(index, step, epoch, look=look)
        except (DataplaneError, IndexError, TypeError):
            # Whatever is wrong, with a sample or with an index that a sampler made up, belongs
            # to the step that needs it, which will meet it.
            return []

    def _planned_together(
        self, places: npt.NDArray[np.int64], steps: npt.NDArray[np.int64], epoch: int
    ) -> PlannedTable:
        """Return the reads of samples that have a form; `places` as `FormTable.find` gives them."""
        numbers, source = np.unique(places[:, 1], return_inverse=True)
        objects = [self._object(self.planner.shard(number)) for number in numbers.tolist()]
        there = np.array([found is not None for found in objects], bool)[source]
        return PlannedTable(
            [found for found in objects if found is not None],
            (np.cumsum([found is not None for found in objects]) - 1)[source][there],
            places[there, 2].astype(np.uint64),
            places[there, 3].astype(np.uint64),
            steps[there],
            epoch,
        )

    def _object(self, shard: str) -> CachedObject | None:
        """Return a shard as the cache sees it; None if that cannot be, which readers will meet."""
        try:
            return self.runtime.object(shard)
        except DataplaneError:
            return None

    def _plans(self, indices: Sequence[int]) -> Iterator[SamplePlan]:
        """Yield the plan of each sample."""
        if self.draws is None:
            yield from map(self.planner.plan, indices)
            return
        for index, look in zip(indices, each_look(indices), strict=True):
            yield self.planner.plan(index, draw=self._draw(index, look))

    def _draw(self, index: int, look: int, epoch: int = 0) -> int:
        """Return the randomness of a sample's selections."""
        if self.draws is None:
            return 0
        sample, part = self.planner.numbering.split(index)
        return int(self.draws.later(epoch).of(sample, look, part)[0])

    def _are_samples(self, indices: Sequence[int]) -> bool:
        """Whether these are numbers of samples."""
        return bool(indices) and 0 <= min(indices) <= max(indices) < self._length

    def _fetch_together(self, indices: Sequence[int]) -> FetchedTogether | None:
        """Read samples into one piece of memory; None where they are better read one by one."""
        cache = self.runtime.cache
        if cache is None or not self._are_samples(indices):
            return None
        plan = self.planner.plan_many(np.array(indices, np.int64))
        if plan is None:
            return None
        # What is less than half of a block is copied in any case (see cache/read/views.py).
        if plan.longest_bytes > min(MAX_TOGETHER_BYTES, cache.config.block_bytes // 2):
            return None
        packed = shared_pool().array((plan.packed_bytes,), UINT8)
        spans = plan.spans.view(np.uint64)
        if (plan.shards == plan.shards[0]).all():
            if plan.packed_bytes:
                self.runtime.read(self.planner.shard(int(plan.shards[0])), spans, packed)
            return FetchedTogether(plan, packed, self.planner)
        for shard in np.unique(plan.shards).tolist():
            which = np.flatnonzero(plan.shards == shard)
            first = int(plan.places[which[0]])
            nbytes = int((spans[which, 1] - spans[which, 0]).sum())
            if nbytes:
                out = packed[first : first + nbytes]
                self.runtime.read(self.planner.shard(shard), spans[which], out)
        return FetchedTogether(plan, packed, self.planner)

    def _fetch(self, plan: SamplePlan, *, direct: bool = False) -> FetchedSample:
        source = None if direct or not plan.spans else self.runtime.object(plan.shard)
        if source is not None:
            share = source.share_in_memory(plan.spans)
            if share < MIN_VIEWED_SHARE and (found := mapped_sample(plan, source)) is not None:
                return found
            if share or not all(source.is_on_disk(*span) for span in plan.spans):
                return viewed_sample(plan, source)
        packed = shared_pool().array((plan.packed_bytes,), UINT8)
        if plan.spans:
            read = self.runtime.read_direct if direct else self.runtime.read
            read(plan.shard, plan.spans, packed)
        return FetchedSample(plan, (packed.data,), plan.rows)

    def _verified(self, index: int, look: int) -> FetchedSample:
        plan = self.planner.plan(index, draw=self._draw(index, look))
        sample = self._fetch(plan)
        try:
            separate_arrays([sample], self.layouts)
        except (DecodeError, FormatError) as err:
            again = self._fetch(plan, direct=True)
            separate_arrays([again], self.layouts)
            self._counters.add("dataset_samples_reread", 1)
            logger.warning("%s; read again from the store, where it is sound", err)
            return again
        return sample

    def _report(self, reader: SampleReader, index: int, err: DataplaneError) -> None:
        done = "skipped" if self.policy == "skip" else "replaced"
        self._counters.add(f"dataset_samples_{done}", 1)
        where = f"sample number {index}"
        try:
            plan = reader.planner.plan(index, draw=reader._draw(index, 0))
        except SAMPLE_ERRORS:
            pass
        else:
            where = f"{plan.key!r} in {plan.shard} at byte {plan.entry.zip_start}"
        logger.warning("%s %s: %s", done, where, err)


def _other_samples(
    candidates: Iterable[tuple[SampleReader, int]],
) -> Iterator[tuple[SampleReader, int]]:
    """Yield the first candidate, and of the others one of each sample but its own."""
    before: tuple[SampleReader, int] | None = None
    for reader, index in candidates:
        sample = reader.planner.numbering.split(index)[0]
        if before is None or before != (reader, sample):
            before = (reader, sample)
            yield reader, index
