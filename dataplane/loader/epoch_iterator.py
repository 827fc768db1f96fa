"""Epoch iterator: one pass over a loader, its stages from indices to batches, and its counters.

    source -> read (plan, bytes through the cache) -> decode (native, into the batch) -> batch
                                                   -> decode (per sample) -> collate (transform, …)

`read` and `decode` are stages of a `pipeline.Pipeline`; `collate` exists only where user code (a
transform or a collate_fn) must run. With `num_workers=0` only `read` runs in the background and
the training thread decodes and collates itself. Beside the pipeline a plan of the cache fetches the
same order, further ahead, within its window of bytes (`prefetcher.py`).

A pass stops its threads when it ends, fails, is closed, or is no longer referred to: the stages
refer to `_Work`, never to the pass itself. An iterator belongs to one thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch.utils.data._utils.pin_memory import pin_memory

from dataplane.datasets.batch import assemble, separate
from dataplane.datasets.dataset import Transform
from dataplane.datasets.reader import SAMPLE_ERRORS, SampleReader
from dataplane.datasets.samples import FetchedSample, decoded_bytes, packed_bytes
from dataplane.errors import LoaderError
from dataplane.loader.batch_source import BatchSource, Indices
from dataplane.loader.channel import ChannelTimeout, EndOfStream
from dataplane.loader.pipeline import Pipeline, Stage, StageStats
from dataplane.loader.prefetcher import Prefetcher
from dataplane.loader.state import Progress
from dataplane.loader.stats import Meter

__all__ = ["Pass", "PassOptions", "plan_ahead"]

READ_AHEAD = 2
"""Batches of compressed bytes that may wait to be decoded."""

MAX_READ_THREADS = 8
DIRECT_READ_THREADS = 4
"""Batches read at once without a cache, where every read is a round trip."""


@dataclass(frozen=True, slots=True)
class PassOptions:
    """Options of a pass.

    Attributes:
        batch_size: samples in a batch, as far as is known; at least 1.
        num_workers: native decode threads; 0 decodes in the training thread.
        prefetch_factor: finished batches that may wait for the training loop.
        pin: whether to put batches into pinned memory.
        timeout_s: longest wait for a batch, or None.
        single: whether to yield samples, not batches (`batch_size=None`).
        transform: function called with each sample, or None.
        collate: function from a list of samples to a batch, or None for the dataset's layout.
        worker_init: function of a thread's number, called in each that runs user code, or None.
    """

    batch_size: int
    num_workers: int
    prefetch_factor: int
    pin: bool
    timeout_s: float | None
    single: bool
    transform: Transform | None
    collate: Callable[[Any], Any] | None
    worker_init: Callable[[int], None] | None

    @property
    def runs_user_code(self) -> bool:
        """Whether samples exist one by one on their way."""
        return self.single or self.transform is not None or self.collate is not None


@dataclass(slots=True)
class _Decoded:
    """A batch on its way, with what has to be counted when it is yielded."""

    content: Any
    samples: int
    decoded_bytes: int
    read_bytes: int


class _Work:
    """The work of the stages. Shared by their threads; refers to no pass, pipeline or loader."""

    def __init__(
        self, reader: SampleReader, options: PassOptions, ahead: Prefetcher | None
    ) -> None:
        self.reader = reader
        self.options = options
        self.ahead = ahead

    def read(self, number: int, indices: Indices) -> Sequence[FetchedSample]:
        del number
        return self.reader.fetch(indices)

    def decode(self, number: int, fetched: Sequence[FetchedSample]) -> _Decoded:
        if (ahead := self.ahead) is not None:
            # Batches arrive here in order: all reads up to this one are done.
            ahead.advance(number + 1)
            del ahead
        try:
            content = self._decode(fetched)
        except SAMPLE_ERRORS:
            fetched = self.reader.recover([sample.plan.index for sample in fetched])
            content = self._decode(fetched)
        return _Decoded(content, len(fetched), decoded_bytes(fetched), packed_bytes(fetched))

    def _decode(self, fetched: Sequence[FetchedSample]) -> Any:
        threads = max(self.options.num_workers, 1)
        if not fetched:
            return []
        if self.options.runs_user_code:
            return separate(fetched, self.reader.layouts, threads=threads)
        return assemble(fetched, self.reader.layouts, threads=threads, pin=self.options.pin)

    def collate(self, number: int, decoded: _Decoded) -> _Decoded:
        del number
        samples = decoded.content
        if not samples:
            return decoded
        options = self.options
        if options.transform is not None:
            samples = [options.transform(sample) for sample in samples]
        content = samples[0] if options.single else samples
        if options.collate is not None:
            content = options.collate(content)
        decoded.content = _pinned(content) if options.pin else content
        return decoded


class Pass(Iterator[Any]):
    """The iterator of a loader over a packed dataset.

    Args:
        reader: reader of the dataset.
        feed: source of batches of indices.
        options: options of the pass.
        progress: progress of the pass, told of every place that was used up, and of the end.
        ahead: prefetcher of the bytes, or None without a cache.
    """

    def __init__(
        self,
        reader: SampleReader,
        feed: BatchSource,
        options: PassOptions,
        progress: Progress,
        ahead: Prefetcher | None,
    ) -> None:
        self.meter = Meter()
        self._options = options
        self._feed = feed
        self._progress = progress
        self._finished = False
        work = _Work(reader, options, ahead)
        stages = _stages(work)
        background = stages if options.num_workers else stages[:1]
        self._inline = [(stage, StageStats(stage.name)) for stage in stages[len(background) :]]
        self._pipeline = Pipeline(feed.batches(), background, on_close=_Closer(feed, work))
        self.meter.stages = [*self._pipeline.stats, *(stats for _, stats in self._inline)]

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._finished:
            raise StopIteration
        began = time.perf_counter()
        try:
            while True:
                self._feed.advance()
                decoded = self._take()
                self._progress.step()
                if decoded.samples:
                    break
        except EndOfStream:
            self._progress.finish()
            self.close()
            raise StopIteration from None
        except BaseException:
            self.close()
            raise
        self.meter.add(
            samples=decoded.samples,
            decoded_bytes=decoded.decoded_bytes,
            read_bytes=decoded.read_bytes,
            wait_s=time.perf_counter() - began,
        )
        return decoded.content

    def close(self) -> None:
        """Stop what is under way and join the threads. Idempotent."""
        if not self._finished:
            self.meter.ended_s = time.perf_counter()
        self._finished = True
        self._pipeline.close()

    def _take(self) -> _Decoded:
        began = time.perf_counter()
        try:
            number, item = self._pipeline.get(self._options.timeout_s)
        except ChannelTimeout as err:
            raise LoaderError(
                f"no batch came within timeout={self._options.timeout_s:g} s",
                hint="stats() of the loader says which stage is slow",
            ) from err
        for stage, stats in self._inline:
            got = time.perf_counter()
            item = stage.run(number, item)
            ran = time.perf_counter()
            stats.add(items=1, busy_s=ran - got, get_wait_s=got - began, put_wait_s=0.0)
            began = ran
        result: _Decoded = item
        return result


class _Closer:
    """Wakes whatever a pipeline's threads wait for outside of it."""

    def __init__(self, feed: BatchSource, work: _Work) -> None:
        self._feed = feed
        self._work = work
        self._lock = threading.Lock()

    def __call__(self) -> None:
        # The batch source first: the plan may be waiting in its iterator.
        self._feed.close()
        with self._lock:
            ahead, self._work.ahead = self._work.ahead, None
        if ahead is not None:
            ahead.leave(self._feed)


def _pinned(content: Any) -> Any:
    return pin_memory(content)  # type: ignore[no-untyped-call]  # torch's own, as its loader uses


def _stages(work: _Work) -> list[Stage]:
    options = work.options
    workers = max(options.num_workers, 1)
    if work.reader.runtime.cache is None:
        read_threads = DIRECT_READ_THREADS
    else:
        read_threads = min(1 + options.num_workers // 4, MAX_READ_THREADS)
    depth = max(options.prefetch_factor, 1)
    stages = [
        Stage("read", work.read, threads=read_threads, capacity=READ_AHEAD + read_threads - 1),
        Stage("decode", work.decode, capacity=depth),
    ]
    if options.runs_user_code:
        stages.append(
            Stage(
                "collate",
                work.collate,
                threads=workers,
                capacity=depth + workers - 1,
                on_start=options.worker_init,
            )
        )
    return stages


def plan_ahead(
    reader: SampleReader, feed: BatchSource, options: PassOptions, before: Prefetcher | None
) -> Prefetcher | None:
    """Return the prefetcher of a pass: `before`, if it foresaw the pass.

    Returns:
        None without a cache. Unless it is returned, `before` ends, after the pass that uses it.
    """
    if before is not None:
        if before.goes_on_with(reader, feed):
            return before
        before.drop()
    cache = reader.runtime.cache
    if cache is None:
        return None
    # Stored size of the batches that are being read, and of one more to fetch meanwhile.
    batches = (READ_AHEAD + 2) * options.batch_size * reader.mean_sample_bytes
    return Prefetcher(cache, reader, feed, max(cache.config.prefetch_window_bytes, batches))
