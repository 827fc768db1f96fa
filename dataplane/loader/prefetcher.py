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

import itertools
import weakref
from collections.abc import Iterable, Iterator

from dataplane.cache import Cache, PlannedRead, PlannedTable
from dataplane.datasets.reader import SampleReader
from dataplane.loader.batch_source import BatchSource, Indices, KnownBatches

__all__ = ["Prefetcher"]

FIRST_STRETCH_SAMPLES = 1
STRETCH_SAMPLES = 1024
"""Samples of a known order that are planned at once, at first and later on."""


class Prefetcher:
    """Prefetcher of the reads of one pass after the other.

    Args:
        cache: cache that they are read through.
        reader: reader of the dataset.
        feed: batch source of the first pass.
        window_bytes: most bytes to fetch ahead.
    """

    def __init__(
        self, cache: Cache, reader: SampleReader, feed: BatchSource, window_bytes: int
    ) -> None:
        self._reader = reader
        self._feed = feed  # of the present pass, or the last one
        self._in_use = True
        self._epoch = 0  # of the plan
        self._base = 0  # the plan's step at which the present pass began
        self._done = 0  # batches of the present pass whose bytes were read
        self._goes_on = isinstance(feed, KnownBatches) and cache.config.next_epoch_bytes > 0
        if self._goes_on and isinstance(feed, KnownBatches):
            reads = _all_reads(reader, feed)
        else:
            reads = _pass_reads(reader, ([batch] for batch in feed.ahead()))
        self._plan = cache.plan(reads, window_bytes=window_bytes)
        # `abandon` takes no lock; the garbage collector may be running in a thread that has them.
        self.close = weakref.finalize(self, self._plan.abandon)
        """Have what is under way cancelled, and what is held let go of, soon. Idempotent."""

    def goes_on_with(self, reader: SampleReader, feed: BatchSource) -> bool:
        """Take `feed` for the next pass, if it is what was planned to come next; say whether."""
        before = self._feed
        if not (
            self._is_over
            and not self._plan.is_closed
            and reader is self._reader
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


def _all_reads(reader: SampleReader, first: KnownBatches) -> Iterator[PlannedRead | PlannedTable]:
    """Yield the reads of a pass and of all epochs after it."""
    step, feed = 0, first
    for epoch in itertools.count():
        reads = _pass_reads(reader, _stretches(feed.batches()), first_step=step, epoch=epoch)
        found = next(reads, None)
        if found is None and epoch > 0:
            return  # there is nothing to plan in this dataset
        if found is not None:
            yield found
            yield from reads
        step += len(feed)
        feed = KnownBatches(first.order, first.epoch + epoch + 1, 0)


def _pass_reads(
    reader: SampleReader, stretches: Iterable[list[Indices]], *, first_step: int = 0, epoch: int = 0
) -> Iterator[PlannedRead | PlannedTable]:
    for batches in stretches:
        yield from reader.planned_many(batches, first_step, epoch)
        first_step += len(batches)


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
