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
stops its threads when it ends, is closed, or is no longer referred to: the stages refer to `_Work`,
never to the pass itself. An iterator belongs to one thread, of the process that made it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from torch.utils.data._utils.pin_memory import pin_memory

from dataplane import _native
from dataplane.datasets.batch import assemble, separate
from dataplane.datasets.reader import SAMPLE_ERRORS
from dataplane.datasets.samples import KEY, decoded_bytes, packed_bytes
from dataplane.datasets.views import FetchedBatch, ViewReader
from dataplane.errors import LoaderError
from dataplane.gpu.transfer import Sent
from dataplane.loader.batch_source import BatchSource, Bulk, Indices
from dataplane.loader.channel import ChannelTimeout, EndOfStream, Failure
from dataplane.loader.device_batches import DeviceBatches
from dataplane.loader.pipeline import Pipeline, Stage, StageStats
from dataplane.loader.prefetcher import Prefetcher
from dataplane.loader.state import Progress
from dataplane.loader.stats import Meter
from dataplane.loader.user_code import NOTHING_LEFT, Task

__all__ = ["BatchWorker", "Pass", "PassOptions", "Run"]

READ_AHEAD = 2
"""Batches of compressed bytes that may wait to be decoded."""

MAX_DECODE_THREADS = 256
"""As many threads as the native decoder takes."""

MAX_READ_THREADS = 8
DIRECT_READ_THREADS = 4
"""Batches read at once without a cache, where every read is a round trip."""


class BatchWorker(Protocol):
    """A worker that runs the user's code: here, in another thread's copy, or another process."""

    def run(self, task: Task) -> Any:
        """Make the batch of a task."""
        ...


@dataclass(frozen=True, slots=True)
class PassOptions:
    """Options of a pass.

    Attributes:
        num_workers: native decode threads, and workers; 0 does all in the training thread.
        prefetch_factor: finished batches that may wait for the training loop.
        pin: whether to put batches into pinned memory.
        timeout_s: longest wait for a batch, or None.
        single: whether to yield samples, not batches (`batch_size=None`).
        keys: whether samples and batches have their keys.
        in_order: whether batches come in order.
        first: place of the first sample in the order of this rank.
    """

    num_workers: int
    prefetch_factor: int
    pin: bool
    timeout_s: float | None
    single: bool
    keys: bool
    in_order: bool
    first: int


@dataclass(frozen=True, slots=True)
class _Asked:
    """A batch that is to be made: its indices, and the place of the first in the order."""

    first: int
    indices: Indices
    fetched: FetchedBatch | None = None


@dataclass(slots=True)
class _Decoded:
    """A batch on its way, with what has to be counted when it is yielded."""

    content: Any
    samples: int
    is_left_out: bool = False
    decoded_bytes: int = 0
    read_bytes: int = 0
    indices: Indices | None = None


class _Work:
    """The work of the stages. Shared by their threads; refers to no pass, pipeline or loader."""

    def __init__(
        self,
        reader: ViewReader | None,
        workers: Sequence[BatchWorker],
        options: PassOptions,
        ahead: Prefetcher | None,
        device: DeviceBatches | None = None,
    ) -> None:
        self.reader = reader
        self.workers = workers
        self.options = options
        self.ahead = ahead
        self.device = device

    def read(self, number: int, asked: _Asked) -> _Asked:
        del number
        assert self.reader is not None
        return _Asked(asked.first, asked.indices, self.reader.fetch(asked.indices))

    def decode(self, number: int, asked: _Asked) -> _Decoded:
        reader, fetched = self.reader, asked.fetched
        assert reader is not None
        assert fetched is not None
        # Batches arrive here in order: all reads up to this one are done.
        self.advance(number)
        try:
            content = self._decode(asked, fetched)
        except SAMPLE_ERRORS:
            fetched = reader.recover(asked.indices)
            content = self._decode(asked, fetched)
        return _Decoded(
            content,
            len(fetched.samples),
            not fetched.samples and bool(asked.indices),
            decoded_bytes(fetched.samples),
            packed_bytes(fetched.samples),
            asked.indices,
        )

    def _decode(self, asked: _Asked, fetched: FetchedBatch) -> Any:
        options, samples = self.options, fetched.samples
        assert self.reader is not None
        threads = min(max(options.num_workers, 1), MAX_DECODE_THREADS)
        if not samples and asked.indices:
            return None
        is_sample = options.single and not isinstance(asked.indices, Bulk)
        if not self.workers and not is_sample:
            if self.device is not None:
                return self.device.make(samples, self.reader.layouts, keys=options.keys)
            batch = assemble(samples, self.reader.layouts, threads=threads, pin=options.pin)
            if not options.keys:
                del batch[KEY]
            return batch
        separated = separate(samples, self.reader.layouts, threads=threads)
        if not options.keys:
            for sample in separated:
                del sample[KEY]
        if not self.workers:
            return _pinned(separated[0]) if options.pin else separated[0]
        return Task(
            asked.first,
            asked.indices,
            isinstance(asked.indices, Bulk),
            separated,
            fetched.which,
            [sample.plan.index for sample in samples],
        )

    def make(self, worker: int, number: int, item: _Decoded | _Asked) -> _Decoded:
        """Have a worker make a batch of decoded samples, or of what its dataset gives."""
        del number
        if isinstance(item, _Asked):
            item = _Decoded(Task(item.first, item.indices), len(item.indices))
        if not item.is_left_out:
            content = self.workers[worker].run(item.content)
            if content is NOTHING_LEFT:
                return _Decoded(None, 0, is_left_out=True)
            item.content = _pinned(content) if self.options.pin else content
        return item

    def make_here(self, number: int, item: _Decoded | _Asked) -> _Decoded:
        """Make a batch in the training thread."""
        return self.make(0, number, item)

    def to_device(self, number: int, item: _Decoded) -> _Decoded:
        """Have a batch on the device, or under way there and known to be sound."""
        del number
        assert self.device is not None
        if item.is_left_out:
            return item
        if not isinstance(item.content, Sent):
            item.content = self.device.move(item.content)
            return item
        try:
            item.content.settle()
        except SAMPLE_ERRORS as err:
            # Damage that was only seen on the device: as where the native decoder sees it.
            assert self.reader is not None
            assert item.indices is not None
            samples = self.reader.recover(item.indices).samples
            keys, layouts = self.options.keys, self.reader.layouts
            again = self.device.make_again(samples, layouts, keys=keys) if samples else None
            if len(samples) == len(item.indices):
                self.device.distrust(err)
            return _Decoded(
                again,
                len(samples),
                again is None,
                decoded_bytes(samples),
                packed_bytes(samples),
            )
        return item

    def advance(self, number: int) -> None:
        """Say that the bytes of all batches up to this one were read."""
        if (ahead := self.ahead) is not None:
            ahead.advance(number + 1)


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
    ) -> None:
        if threading.current_thread() is not threading.main_thread():
            _native.outlast_interpreter()  # a daemon thread of the user's, maybe
        self.meter = Meter(device=device)
        self._options = options
        self._feed = feed
        self._progress = progress
        self._pid = os.getpid()
        self._reads_here = reader is None
        self._device = device
        self.is_closed = False
        self._work = work = _Work(reader, workers, options, ahead, device)
        background, inline = _stages(work)
        self._inline = [(stage, StageStats(stage.name)) for stage in inline]
        source = _placed(feed.batches(), options.first)
        self.pipeline = Pipeline(source, background, on_close=_Closer(feed, work))
        self.meter.stages = [*self.pipeline.stats, *(stats for _, stats in self._inline)]

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
            self._progress.finish()
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
        if self._device is not None:
            return self._device.handed_over(decoded.content)
        return decoded.content

    def close(self) -> None:
        """Stop what is under way and join the threads. Idempotent."""
        if not self.is_closed:
            self.meter.ended_s = time.perf_counter()
        self.is_closed = True
        self.pipeline.close()
        self._work.workers = ()  # whoever holds on to the pass holds no worker

    def _take(self) -> _Decoded:
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
            self._progress.fail(number)
            raise
        finally:
            if self._reads_here:
                self._work.advance(number)
        self._progress.step(number)
        return result

    def _made_here(self, number: int, item: Any, began: float) -> _Decoded:
        for stage, stats in self._inline:
            got = time.perf_counter()
            item = stage.run(number, item)
            ran = time.perf_counter()
            stats.add(items=1, busy_s=ran - got, get_wait_s=got - began, put_wait_s=0.0)
            began = ran
        result: _Decoded = item
        return result


class Pass(Iterator[Any]):
    """The iterator of a loader over packed samples.

    Frameworks name the epoch when they already have the iterator. So until a batch was asked for, a
    pass begins anew when it is out of date.

    Args:
        begin: function that begins the pass, of the epoch that is next by then.
        is_stale: function that says whether another epoch was named since it was called.
        length: number of batches, where the loader knows it.
    """

    def __init__(
        self, begin: Callable[[], Run], is_stale: Callable[[], bool], length: int | None
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
        if begin is not None and not self._run.is_closed and self._is_stale():
            self._run.close()
            self._run = begin()
        return self._run.next_batch()

    @property
    def is_closed(self) -> bool:
        """Whether it has ended."""
        return self._run.is_closed

    @property
    def pipeline(self) -> Pipeline:
        """The stages that run in the background."""
        return self._run.pipeline

    def close(self) -> None:
        """Stop what is under way and join the threads. Idempotent."""
        self._run.close()


class _Closer:
    """Wakes whatever a pipeline's threads wait for outside of it."""

    def __init__(self, feed: BatchSource, work: _Work) -> None:
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


def _placed(batches: Iterator[Indices], first: int) -> Iterator[_Asked]:
    for indices in batches:
        yield _Asked(first, indices)
        first += len(indices)


def _pinned(content: Any) -> Any:
    return pin_memory(content)  # type: ignore[no-untyped-call]  # torch's own, as its loader uses


def _stages(work: _Work) -> tuple[list[Stage], list[Stage]]:
    """Return the stages that run in the background, and those of the training thread."""
    options = work.options
    count = max(options.num_workers, 1)
    depth = max(options.prefetch_factor, 1)
    # Each worker's next batch may wait beside those of the others.
    waiting = depth + count - 1
    in_order = options.in_order or not options.num_workers
    user = Stage("collate", work.make_here)
    if options.num_workers:
        user = Stage(
            "collate",
            work.make,
            threads=count,
            capacity=waiting,
            to_thread="by number" if in_order else "any",
            in_order=in_order,
        )
    on_device = []
    if work.device is not None:
        on_device = [Stage("device", work.to_device, capacity=depth, in_order=in_order)]
        depth = 1  # what is ready for the loop waits behind the last stage
    if work.reader is None:
        first = [Stage("order", lambda _, asked: asked, capacity=1)]
        made = [user, *on_device]
        return (made, []) if options.num_workers else (first, made)
    if work.reader.cache is None:
        read_threads = DIRECT_READ_THREADS
    else:
        read_threads = min(1 + options.num_workers // 4, MAX_READ_THREADS)
    read = Stage("read", work.read, threads=read_threads, capacity=READ_AHEAD + read_threads - 1)
    decode = Stage("decode", work.decode, capacity=waiting if work.workers else depth)
    stages = [read, decode, *([user] if work.workers else []), *on_device]
    return (stages, []) if options.num_workers else (stages[:1], stages[1:])
