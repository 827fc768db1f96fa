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
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np

from dataplane.buffers import shared_pool
from dataplane.cache import CachedObject, PlannedRead
from dataplane.cache.read.ranges import pack_ranges
from dataplane.codecs import Codec, join_rows
from dataplane.datasets.layout import ArrayLayout
from dataplane.datasets.plan import Planner, SamplePlan
from dataplane.datasets.runtime import UINT8, Runtime
from dataplane.datasets.samples import FetchedSample, separate_arrays
from dataplane.errors import (
    ConfigError,
    DataplaneError,
    DecodeError,
    FormatError,
    LoaderError,
    MissingArray,
    NotFound,
)
from dataplane.telemetry import Counters, logger

__all__ = ["SAMPLE_ERRORS", "ErrorPolicy", "SampleReader", "check_policy"]

ErrorPolicy: TypeAlias = Literal["raise", "skip", "replace"]

SAMPLE_ERRORS = (DecodeError, FormatError, NotFound, MissingArray)
"""Errors that make a single sample unreadable, as opposed to a store or a cache."""

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
        length: length of the dataset.
        counters: counters for `dataset_samples_skipped`, `…_replaced`, `…_reread`.
    """

    def __init__(
        self,
        runtime: Runtime,
        planner: Planner,
        layouts: Sequence[ArrayLayout],
        *,
        policy: ErrorPolicy,
        length: int,
        counters: Counters,
    ) -> None:
        self.runtime = runtime
        self.planner = planner
        self.layouts = layouts
        self.policy = policy
        self._length = length
        self._counters = counters

    @property
    def mean_sample_bytes(self) -> int:
        """Stored size of a sample with all its arrays, on average."""
        return self.runtime.stored_bytes // max(self._length, 1)

    def fetch(self, indices: Iterable[int]) -> list[FetchedSample]:
        """Read the bytes of samples, recovered by the policy where they have no plan.

        Raises:
            DataplaneError: a sample cannot be read and the policy is to raise.
        """
        wanted = list(indices)
        try:
            return self.fetch_all(wanted)
        except SAMPLE_ERRORS:
            return self.recover(wanted)

    def fetch_all(self, indices: Iterable[int]) -> list[FetchedSample]:
        """Read the bytes of samples, all of them.

        Raises:
            DataplaneError: a sample cannot be read.
        """
        return [self._fetch(self.planner.plan(index)) for index in indices]

    def recover(self, indices: Iterable[int]) -> list[FetchedSample]:
        """Read samples one by one, check that each decodes, and apply the policy to the others.

        Raises:
            DataplaneError: as `fetch`.
            LoaderError: too many samples in a row had to be replaced.
        """
        recovered = [
            self.first_sound(
                (self, (index + ahead) % self._length) for ahead in range(self._length)
            )
            for index in indices
        ]
        return [sample for sample in recovered if sample is not None]

    def first_sound(self, candidates: Iterable[tuple[SampleReader, int]]) -> FetchedSample | None:
        """Return the first of some samples that can be read, if the policy tries any further.

        Args:
            candidates: the sample that was asked for, then those that may replace it.

        Raises:
            DataplaneError: the first cannot be read and the policy is to raise.
            LoaderError: too many in a row cannot.
        """
        tried: list[int] = []
        for reader, index in itertools.islice(candidates, MAX_REPLACEMENTS):
            try:
                return reader._verified(index)
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

    def planned(self, index: int, step: int, epoch: int = 0) -> list[PlannedRead]:
        """Return the reads of a sample for the cache to make in advance.

        A sample without a plan gives none: its error belongs to the step that needs it.
        """
        try:
            plan = self.planner.plan(index)
            source = self.runtime.object(plan.entry.shard)
        except SAMPLE_ERRORS:
            return []
        if source is None:
            return []
        return [PlannedRead(source, start, stop, step, epoch) for start, stop in plan.spans]

    def _fetch(self, plan: SamplePlan, *, direct: bool = False) -> FetchedSample:
        source = None if direct or not plan.spans else self.runtime.object(plan.entry.shard)
        if source is not None and not all(source.is_resident(*span) for span in plan.spans):
            return _viewed(plan, source)
        packed = shared_pool().array((plan.packed_bytes,), UINT8)
        if plan.spans:
            read = self.runtime.read_direct if direct else self.runtime.read
            read(plan.entry.shard, plan.spans, packed)
        return FetchedSample(plan, (packed.data,), plan.rows)

    def _verified(self, index: int) -> FetchedSample:
        plan = self.planner.plan(index)
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
            plan = reader.planner.plan(index)
        except SAMPLE_ERRORS:
            pass
        else:
            where = f"{plan.entry.key!r} in {plan.entry.shard} at byte {plan.entry.zip_start}"
        logger.warning("%s %s: %s", done, where, err)


def _viewed(plan: SamplePlan, source: CachedObject) -> FetchedSample:
    """Find the chunks of a sample in the memory of blocks that were just downloaded."""
    rows = join_rows([plan.rows])
    stored = np.flatnonzero(rows["codec"] != Codec.FILL)
    spans = pack_ranges(plan.spans)
    packed = rows["source_offset"][stored]
    span = np.searchsorted(spans[:, 2], packed, side="right") - 1
    starts = packed - spans[span, 2] + spans[span, 0]
    views = source.views(starts, starts + rows["source_nbytes"][stored])
    rows["source"][stored] = views.source
    rows["source_offset"][stored] = views.offset
    return FetchedSample(plan, views.sources, rows)
