"""Epoch prefetcher: the plan of a loader, fetched ahead of its passes, from one to the next.

With a known order the reads of the next epoch are known while this one ends, so the plan goes on
over the end: the first blocks of the next epoch (`next_epoch_bytes`) are fetched while the last
batches of this one are trained on, and while the loop does other things before it comes back. The
loader keeps the plan. When its next pass is the one that was foreseen, the pass takes the plan over
with all that it holds; when it is another (another epoch, a resume), when the pass before it was
left early, or when the loader is not referred to any more, the plan is closed. Whether there will
be a next epoch is not known; one that does not come has cost `next_epoch_bytes` at most.

The order of a user's sampler is known only as it is drawn, so its plan ends with the pass.

Steps of the plan count the batches of all its passes. Belongs to the training thread, apart from
`advance`, and `leave` and `close`, which may be called from any, by the garbage collector too. The
plan's own thread (the cache's dp-plan) refers to the reader and the order, never to this object or
a loader.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, Self

import numpy as np

from dataplane.cache import Cache, PlannedRead, PlannedTable
from dataplane.datasets.dataset import Dataset
from dataplane.datasets.draws import Draws
from dataplane.datasets.looks import Looked, looks_of
from dataplane.finalizers import finalize
from dataplane.loader.batch_source import BatchSource, Indices
from dataplane.loader.known_batches import KnownBatches, KnownOrder

__all__ = ["BatchReads", "InnerReads", "PlannedReads", "Prefetcher", "pass_reads", "plan_ahead"]

BATCHES_AHEAD = 4
"""Batches that the plan of a pass has room for, however large: those being read, and one more."""


class BatchReads(Protocol):
    """Which bytes batches need."""

    def planned_many(
        self, batches: Sequence[Sequence[int]], first_step: int, epoch: int = 0
    ) -> Iterator[PlannedRead | PlannedTable]:
        """Yield the reads of several batches, each of a step, for the cache to make in advance."""
        ...


class PlannedReads(BatchReads, Protocol):
    """The same, and through which cache."""

    @property
    def cache(self) -> Cache | None:
        """Cache that they are read through, or None."""
        ...

    @property
    def mean_sample_bytes(self) -> int:
        """Stored size of a sample, on average."""
        ...

    def is_of(self, other: Self) -> bool:
        """Whether `other` says the same of every sample."""
        ...


class InnerReads:
    """What a dataset of the user's reads, if its sample `i` is made of sample `i` of others.

    Args:
        datasets: packed datasets inside of it, at least one.
        length: length of the user's dataset; those with another length are left out.
        draws: what their random selections draw from.
    """

    def __init__(
        self, datasets: Sequence[Dataset], length: int, draws: Draws | None = None
    ) -> None:
        self._seed = None if draws is None else draws.seed
        self._readers = [one.reader().drawing(draws) for one in datasets if len(one) == length]
        self._any = datasets[0].reader()

    @property
    def cache(self) -> Cache | None:
        """Cache that they are read through; None where nothing is known of what is read."""
        return self._any.runtime.cache if self._readers else None

    @property
    def mean_sample_bytes(self) -> int:
        """Stored size of a sample, on average."""
        return sum(reader.mean_sample_bytes for reader in self._readers)

    def planned_many(
        self, batches: Sequence[Sequence[int]], first_step: int, epoch: int = 0
    ) -> Iterator[PlannedRead | PlannedTable]:
        """Yield the reads of several batches, each of a step, for the cache to make in advance."""
        # A sampler of the user's may give anything for an index.
        known = [_whole_numbers(batch) for batch in batches]
        if len(self._readers) == 1:
            yield from self._readers[0].planned_many(known, first_step, epoch)
            return
        for step, batch in enumerate(known, first_step):
            for reader in self._readers:
                yield from reader.planned_many([batch], step, epoch)

    def is_of(self, other: InnerReads) -> bool:
        """Whether `other` says the same of every sample."""
        is_same = self._seed == other._seed or not any(one.draws for one in self._readers)
        return (
            is_same
            and len(self._readers) == len(other._readers)
            and all(a.is_of(b) for a, b in zip(self._readers, other._readers, strict=True))
        )


def _whole_numbers(batch: Sequence[int]) -> Sequence[int]:
    """Return the indices of a batch that are numbers, with their looks if all are."""
    given: Sequence[object] = batch
    known = [i for i in given if isinstance(i, int)]
    return batch if len(known) == len(batch) else known


FIRST_STRETCH_SAMPLES = 1
STRETCH_SAMPLES = 1024
"""Samples of a known order that are planned at once, at first and later on."""


class Prefetcher:
    """Prefetcher of the reads of one pass after the other.

    Args:
        cache: cache that they are read through.
        reader: what says which bytes a sample needs.
        feed: batch source of the first pass.
        window_bytes: most bytes to fetch ahead.
    """

    def __init__(
        self, cache: Cache, reader: PlannedReads, feed: BatchSource, window_bytes: int
    ) -> None:
        self._reader = reader
        self._feed = feed  # of the present pass, or the last one
        self._in_use = True
        self._epoch = 0  # of the plan
        self._base = 0  # the plan's step at which the present pass began
        self._done = 0  # batches of the present pass whose bytes were read
        self._goes_on = (
            isinstance(feed, KnownBatches)
            and feed.is_next_known
            and cache.config.next_epoch_bytes > 0
        )
        if self._goes_on and isinstance(feed, KnownBatches):
            reads = _all_reads(reader, feed)
        else:
            order = feed.order if isinstance(feed, KnownBatches) else None
            reads = pass_reads(reader, ([batch] for batch in feed.ahead()), order)
        self._plan = cache.plan(reads, window_bytes=window_bytes)
        # `abandon` takes no lock; the garbage collector may be running in a thread that has them.
        finalize(self, self._plan.abandon)

    def close(self) -> None:
        """Have what is under way cancelled, and what is held let go of, soon. Idempotent."""
        self._plan.abandon()

    def goes_on_with(self, reader: PlannedReads, feed: BatchSource) -> bool:
        """Take `feed` for the next pass, if it is what was planned to come next; say whether."""
        before = self._feed
        if not (
            self._is_over
            and not self._plan.is_closed
            and type(reader) is type(self._reader)
            and reader.is_of(self._reader)
            and isinstance(before, KnownBatches)
            and isinstance(feed, KnownBatches)
            and (feed.order, feed.epoch, feed.start) == (before.order, before.epoch + 1, 0)
        ):
            return False
        self._base += len(before)
        self._feed, self._done, self._in_use = feed, 0, True
        self._epoch += 1
        self._plan.begin_epoch(self._epoch)
        return True

    def advance(self, batches: int) -> None:
        """Say that the bytes of the first `batches` batches of the present pass were read."""
        self._plan.advance(self._base + batches)
        # Afterwards: once the pass is over, the next one may take the plan over and count from 0.
        self._done = batches

    def leave(self, feed: BatchSource) -> None:
        """Say that the pass of `feed` has ended; unless it read all it had to, so does the plan."""
        if feed is not self._feed:
            return  # another pass has taken over
        self._in_use = False
        if not self._is_over:
            self.close()

    def drop(self) -> None:
        """Say that no other pass will take over: the one that is in progress ends the plan."""
        self._goes_on = False
        if not self._in_use:
            self.close()

    @property
    def _is_over(self) -> bool:
        """Whether the present pass has read all it had to, so that another may take over."""
        return (
            self._goes_on and isinstance(self._feed, KnownBatches) and self._done >= len(self._feed)
        )


def plan_ahead(
    reader: PlannedReads, feed: BatchSource, batch_size: int, before: Prefetcher | None
) -> Prefetcher | None:
    """Return the prefetcher of a pass: `before`, if it foresaw the pass.

    Args:
        reader: what says which bytes a sample needs.
        feed: batch source of the pass.
        batch_size: samples in a batch, as far as is known; at least 1.
        before: prefetcher of the pass before, or None.

    Returns:
        None without a cache. Unless it is returned, `before` ends, after the pass that uses it.
    """
    if before is not None:
        if before.goes_on_with(reader, feed):
            return before
        before.drop()
    cache = reader.cache
    if cache is None:
        return None
    batches = BATCHES_AHEAD * batch_size * reader.mean_sample_bytes
    return Prefetcher(cache, reader, feed, max(cache.config.prefetch_window_bytes, batches))


def _all_reads(reader: PlannedReads, first: KnownBatches) -> Iterator[PlannedRead | PlannedTable]:
    """Yield the reads of a pass and of all epochs after it."""
    step, feed = 0, first
    for epoch in itertools.count():
        stretches = _stretches(feed.batches())
        reads = pass_reads(reader, stretches, feed.order, first_step=step, epoch=epoch)
        found = next(reads, None)
        if found is None and epoch > 0:
            return  # there is nothing to plan in this dataset
        if found is not None:
            yield found
            yield from reads
        step += len(feed)
        feed = KnownBatches(first.order, first.epoch + epoch + 1, 0)


def pass_reads(
    reader: BatchReads,
    stretches: Iterable[list[Indices]],
    order: KnownOrder | None,
    *,
    first_step: int = 0,
    epoch: int = 0,
) -> Iterator[PlannedRead | PlannedTable]:
    """Yield the reads of a pass, which say whose samples they are of, where samples have owners.

    Args:
        reader: what says which bytes a sample needs.
        stretches: batches of the pass, some at a time.
        order: order of the pass, where it is known.
        first_step: step of the first batch.
        epoch: how many epochs after the reader's draws it is.
    """
    for batches in stretches:
        if order is None or order.nodes is None:
            yield from reader.planned_many(batches, first_step, epoch)
        else:
            for step, batch in enumerate(batches, first_step):
                yield from _reads_by_owner(reader, batch, order, step, epoch)
        first_step += len(batches)


def _reads_by_owner(
    reader: BatchReads, batch: Indices, order: KnownOrder, step: int, epoch: int
) -> Iterator[PlannedRead | PlannedTable]:
    """Yield the reads of a batch, which say whose samples they are of."""
    guests = order.guests(batch)
    assert guests is not None
    for is_guest in (False, True):
        places = np.flatnonzero(guests == is_guest).tolist()
        some: Indices = [batch[place] for place in places]
        looks = looks_of(batch)
        if looks is not None:
            some = Looked(some, [looks[place] for place in places])
        if some:
            for read in reader.planned_many([some], step, epoch):
                yield dataclasses.replace(read, is_guest=is_guest)


def _stretches(batches: Iterable[Indices]) -> Iterator[list[Indices]]:
    """Put batches together, ever more of them: the first reads are planned soon."""
    stretch: list[Indices] = []
    samples, wanted = 0, FIRST_STRETCH_SAMPLES
    for batch in batches:
        stretch.append(batch)
        samples += len(batch)
        if samples >= wanted:
            yield stretch
            stretch, samples = [], 0
            wanted = min(2 * wanted, STRETCH_SAMPLES)
    if stretch:
        yield stretch
