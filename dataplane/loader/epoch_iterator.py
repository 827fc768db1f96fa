"""Epoch iterator: one pass over a loader, its stages from indices to batches, and its counters.

    source -> read (plan, bytes through the cache) -> decode (native, into the batch) -> batch
                                                   -> decode (per sample) -> collate (transform, …)
    source -> collate (the user's dataset, which reads packed samples itself, collate_fn)
    any of these -> device (copied, or already under way there)

`read`, `decode` and `collate` are stages of a `pipeline.Pipeline`; `collate` exists only where code
of the user's must run, and does nothing else (`user_code.py`). With `num_workers=0` only `read`
runs in the background and the training thread does the rest itself. Beside the pipeline a plan of
the cache fetches the same order, further ahead, within its window of bytes (`prefetcher.py`).

An error in the place of a batch is raised there, and the pass goes on with the next one. A pass
stops its threads when it ends, is closed, or is no longer referred to: the stages refer to `Work`,
never to the pass itself. An iterator belongs to one thread, of the process that made it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

from dataplane._native import outlast_interpreter
from dataplane.datasets.views import ViewReader
from dataplane.errors import LoaderError
from dataplane.loader.batch_source import BatchSource, Indices
from dataplane.loader.channel import ChannelTimeout, EndOfStream, Failure
from dataplane.loader.device_batches import DeviceBatches
from dataplane.loader.pipeline import Pipeline, StageStats
from dataplane.loader.prefetcher import Prefetcher
from dataplane.loader.stages import Asked, BatchWorker, Decoded, PassOptions, Work, stages_of
from dataplane.loader.state import Progress
from dataplane.loader.stats import Meter
from dataplane.loader.yielded import Trail

__all__ = ["Pass", "Run"]


class Run:
    """A pass that was begun: its pipeline, and what the training thread does of it.

    Args:
        reader: reader of the samples; None where the user's dataset reads them itself.
        workers: workers that run the user's code; none where there is no such code.
        feed: source of batches of indices.
        options: options of the pass.
        progress: progress of the pass, told of every place that was used up, and of the end.
        ahead: prefetcher of the bytes, or None without a cache.
        device: maker of batches on a device, or None.
        trail: what is told of each batch that is yielded, or None.
    """

    def __init__(
        self,
        reader: ViewReader | None,
        workers: Sequence[BatchWorker],
        feed: BatchSource,
        options: PassOptions,
        *,
        progress: Progress,
        ahead: Prefetcher | None,
        device: DeviceBatches | None = None,
        trail: Trail | None = None,
    ) -> None:
        if threading.current_thread() is not threading.main_thread():
            outlast_interpreter()  # a daemon thread of the user's, maybe
        self.meter = Meter(device=device)
        self._options = options
        self._feed = feed
        self.progress = progress
        self._pid = os.getpid()
        self._reads_here = reader is None
        self._device = device
        self._trail = trail
        self.is_closed = False
        self._work = work = Work(reader, workers, options, ahead, device)
        background, inline = stages_of(work)
        self._inline = [(stage, StageStats(stage.name)) for stage in inline]
        source = _placed(feed.batches(), options.first)
        self.pipeline = Pipeline(source, background, on_close=_Closer(feed, work))
        self.meter.stages = [*self.pipeline.stats, *(stats for _, stats in self._inline)]
        progress.follow(self)

    def next_batch(self) -> Any:
        """Return the next batch.

        Raises:
            StopIteration: there are no more.
            LoaderError: none came in time, or this is a forked child.
            Exception: what stands in the place of the batch; the next one can be asked for.
        """
        if os.getpid() != self._pid:
            raise LoaderError(
                f"this iterator belongs to process {self._pid}, and a forked child has none of its "
                "threads",
                hint="call iter(loader) in the child",
            )
        if self.is_closed:
            raise StopIteration
        began = time.perf_counter()
        try:
            while True:
                self._feed.advance()
                decoded = self._take()
                if not decoded.is_left_out:
                    break
        except EndOfStream:
            self.progress.finish()
            self.close()
            raise StopIteration from None
        except Exception:
            raise  # in the place of one batch; the next one can be asked for
        except BaseException:
            self.close()
            raise
        self.meter.add(
            samples=decoded.samples,
            decoded_bytes=decoded.decoded_bytes,
            read_bytes=decoded.read_bytes,
            wait_s=time.perf_counter() - began,
        )
        if self._trail is not None and decoded.origins is not None:
            self._trail.note(decoded.number, decoded.origins)
        if self._device is not None:
            return self._device.handed_over(decoded.content)
        return decoded.content

    def close(self) -> None:
        """Stop what is under way and join the threads. Idempotent."""
        if not self.is_closed:
            self.meter.ended_s = time.perf_counter()
        self.is_closed = True
        if self.pipeline.close():  # else a worker is still at work, and not for another pass
            self._work.workers = ()  # whoever holds on to the pass holds no worker

    def _take(self) -> Decoded:
        began = time.perf_counter()
        try:
            number, item = self.pipeline.take(self._options.timeout_s)
        except ChannelTimeout as err:
            raise LoaderError(
                f"DataLoader timed out after {self._options.timeout_s:g} seconds: no batch came",
                hint="stats() of the loader says which stage is slow",
            ) from err
        try:
            if isinstance(item, Failure):
                raise item.error
            result = self._made_here(number, item, began)
        except Exception:
            self.progress.fail(number)
            raise
        finally:
            if self._reads_here:
                self._work.advance(number)
        self.progress.step(number)
        result.number = number
        return result

    def _made_here(self, number: int, item: Any, began: float) -> Decoded:
        for stage, stats in self._inline:
            got = time.perf_counter()
            item = stage.run(number, item)
            ran = time.perf_counter()
            stats.add(items=1, busy_s=ran - got, get_wait_s=got - began, put_wait_s=0.0)
            began = ran
        result: Decoded = item
        return result


class Pass(Iterator[Any]):
    """The iterator of a loader over packed samples.

    Frameworks name the epoch when they already have the iterator. So until a batch was asked for, a
    pass begins anew when it is out of date.

    Args:
        begin: function that begins the pass, of the epoch that is next by then.
        is_stale: function that says whether another epoch was named since a pass was begun.
        length: number of batches, where the loader knows it.
    """

    def __init__(
        self, begin: Callable[[], Run], is_stale: Callable[[Progress], bool], length: int | None
    ) -> None:
        self._begin: Callable[[], Run] | None = begin
        self._is_stale = is_stale
        self._length = length
        self._run = begin()

    def __iter__(self) -> Self:
        return self

    def __len__(self) -> int:
        if self._length is None:
            raise TypeError("the number of batches is not known: the sampler has no length")
        return self._length

    def __next__(self) -> Any:
        begin, self._begin = self._begin, None  # which refers to the loader
        if begin is not None and not self._run.is_closed and self._is_stale(self._run.progress):
            self._run.close()
            self._run = begin()
        return self._run.next_batch()

    @property
    def pipeline(self) -> Pipeline:
        """The stages that run in the background."""
        return self._run.pipeline

    def close(self) -> None:
        """Stop what is under way and join the threads. Idempotent."""
        self._run.close()


class _Closer:
    """Wakes whatever a pipeline's threads wait for outside of it."""

    def __init__(self, feed: BatchSource, work: Work) -> None:
        self._feed = feed
        self._work = work
        self._lock = threading.Lock()

    def __call__(self) -> None:
        # The batch source first: the plan may be waiting in its iterator.
        self._feed.close()
        if self._work.device is not None:
            self._work.device.close()
        with self._lock:
            ahead, self._work.ahead = self._work.ahead, None
        if ahead is not None:
            ahead.leave(self._feed)


def _placed(batches: Iterator[Indices], first: int) -> Iterator[Asked]:
    for indices in batches:
        yield Asked(first, indices)
        first += len(indices)
