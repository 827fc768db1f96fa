"""Pipeline: stages that hand items on in order through bounded channels, and count their waits.

A `Pipeline` is a source, some stages, and an end that the consumer reads. Each stage runs a
function on every item in threads of its own; between stages is a bounded `Channel`, which gives
items out in the order of their numbers, whichever thread was done first.

Ends: the source's end travels as a length, so every stage stops after the last item. An error
travels as an item: a stage that fails on item `s` puts the error at place `s` and goes on with the
next, and so may the consumer: which batch fails is as reproducible as the order. A source that
fails ends with its error. `close()` cancels everything, joins the threads, and may be
called any number of times from any thread. A pipeline that is not referred to any more is cancelled
by the cleanup thread (`dataplane/deferred.py`), and one that is left open by the end of the process
at exit.

Bottleneck: every stage counts the time its threads spend working, waiting for input and waiting for
a slot in their output. The stage whose threads work all the time is the bottleneck.

Threads are daemons named `dp-<stage>-<i>`, started by the constructor. Nothing here knows samples,
torch or the cache.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from dataplane import deferred, process_exit
from dataplane.daemon_thread import DaemonThread
from dataplane.errors import LoaderError
from dataplane.finalizers import finalize
from dataplane.loader.channel import Cancelled, Channel, EndOfStream, Failure
from dataplane.telemetry import logger, offer_gauges
from dataplane.weak_registry import WeakRegistry

__all__ = ["Pipeline", "Stage", "StageStats"]

JOIN_TIMEOUT_S = 10.0
"""Longest wait of `close()` for a thread that is inside a call it cannot be called back from."""

_EXIT_JOIN_S = 2.0
"""Longest wait for all threads at the end of the process: they are daemons, and end with it."""


@dataclass(slots=True)
class StageStats:
    """Statistics of one stage so far: where its threads spent their time.

    Attributes:
        name: name of the stage.
        threads: number of its threads.
        items: number of items that went through.
        busy_s: time in the stage's function, all threads together.
        get_wait_s: time waiting for input.
        put_wait_s: time waiting for a slot in the output.
    """

    name: str
    threads: int = 1
    items: int = 0
    busy_s: float = 0.0
    get_wait_s: float = 0.0
    put_wait_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, *, items: int, busy_s: float, get_wait_s: float, put_wait_s: float) -> None:
        """Add what one item took."""
        with self._lock:
            self.items += items
            self.busy_s += busy_s
            self.get_wait_s += get_wait_s
            self.put_wait_s += put_wait_s

    def as_dict(self) -> dict[str, float]:
        """Return the figures by name."""
        with self._lock:
            return {
                "threads": self.threads,
                "items": self.items,
                "busy_s": self.busy_s,
                "get_wait_s": self.get_wait_s,
                "put_wait_s": self.put_wait_s,
            }


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a pipeline.

    Attributes:
        name: name for threads and statistics.
        run: function from `(number, item)` to the next stage's item.
        threads: number of items that are worked on at once.
        capacity: most finished items that may wait for the next stage.
        to_thread: which thread gets item `n`: "" any, which `run` is not told; "any", or
            "by number", thread `n % threads`, and `run` gets `(thread, number, item)`.
        in_order: whether finished items leave in the order of their numbers.
    """

    name: str
    run: Callable[..., Any]
    threads: int = 1
    capacity: int = 2
    to_thread: Literal["", "any", "by number"] = ""
    in_order: bool = True


class Pipeline:
    """Pipeline of a source and stages in the background. A context manager; `close()` ends it.

    Args:
        source: iterator of the items; it is advanced by one thread at a time, never by two.
        stages: stages, at least one.
        on_close: function called once when the pipeline closes, before the threads are joined, to
            wake a source or a stage that waits for something outside. Must not refer to the
            pipeline.
    """

    def __init__(
        self,
        source: Iterator[Any],
        stages: Sequence[Stage],
        *,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        if not stages:
            raise ValueError("a pipeline has at least one stage")
        self._source = _Source(source)
        self._channels = [Channel(stage.capacity, in_order=stage.in_order) for stage in stages]
        self.stats = [StageStats(stage.name, stage.threads) for stage in stages]
        self._consumer_wait_s = 0.0
        inputs: list[_Source | Channel] = [self._source, *self._channels[:-1]]
        deferred.prepare()
        # Threads refer to the parts, not the pipeline: one that is not referred to any more is
        # collected, and the finalizer has its threads stopped.
        self._stop = stop = _Stop(self._source, self._channels, on_close)
        for index, stage in enumerate(stages):
            for worker in range(stage.threads):
                work = _Worker(
                    stage, worker, inputs[index], self._channels[index], self.stats[index]
                )
                stop.threads.append(DaemonThread(work.loop, name=f"dp-{stage.name}-{worker}"))
        self._is_first_close = finalize(self, stop.abandon)
        _stops.add(stop)
        offer_gauges(self, Pipeline._depths)
        for thread in stop.threads:
            thread.start()

    def close(self) -> bool:
        """Cancel what is under way, join the threads, say whether all have ended. Idempotent."""
        if self._is_first_close():
            self._stop.cancel()
            self._stop.join(JOIN_TIMEOUT_S)
        return not any(thread.is_alive() for thread in self._stop.threads)

    def get(self, timeout_s: float | None = None) -> tuple[int, Any]:
        """Take the next finished item and its number.

        Raises:
            EndOfStream: there are no more.
            LoaderError: the pipeline was closed by another thread.
            ChannelTimeout: nothing came within `timeout_s`.
            BaseException: whatever a stage or the source raised for this item.
        """
        number, item = self.take(timeout_s)
        if isinstance(item, Failure):
            raise item.error
        return number, item

    def take(self, timeout_s: float | None = None) -> tuple[int, Any]:
        """Take the next finished item, or the `Failure` in its place, and its number.

        Raises:
            EndOfStream, LoaderError, ChannelTimeout: as `get`.
        """
        began = time.perf_counter()
        try:
            return self._channels[-1].get(timeout_s)
        except Cancelled as err:
            if process_exit.ends_this_thread():
                raise SystemExit from None
            raise LoaderError("the iterator was closed while a batch was waited for") from err
        finally:
            self._consumer_wait_s += time.perf_counter() - began

    def _depths(self) -> dict[str, float]:
        channels = zip(self.stats, self._channels, strict=True)
        return {f"loader_queue_{stage.name}": len(channel) for stage, channel in channels}

    @property
    def consumer_wait_s(self) -> float:
        """Time the consumer has waited for items."""
        return self._consumer_wait_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Source:
    """Numbers the items of an iterator and gives each to one taker. Thread-safe."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items
        self._lock = threading.Lock()
        self._next = 0
        self._ahead: dict[int, Any] = {}
        self._done = False

    def get(self, *, number: int | None = None) -> tuple[int, Any]:
        """Take the next item, or item `number`, which is its taker's own."""
        with self._lock:
            while number is not None and self._next < number and not self._done:
                place = self._next
                self._ahead[place] = self._draw()
            if number is None:
                number = self._next
            if number in self._ahead:
                item = self._ahead.pop(number)
            elif self._done:
                raise EndOfStream
            else:
                item = self._draw()
            if item is EndOfStream:
                raise EndOfStream
            return number, item

    def _draw(self) -> Any:
        number = self._next
        self._next += 1
        try:
            return next(self._items)
        except StopIteration:
            self._done = True
            # The number was not used: the end of the stream counts the items before it.
            self._next = number
            return EndOfStream
        except Exception as err:
            self._done = True
            return Failure(err)

    @property
    def count(self) -> int:
        return self._next

    def cancel(self) -> None:
        # Not under the lock: a source that blocks in `next` holds it, and is woken by its owner.
        self._done = True


class _Stop:
    """Cancels channels and joins threads; refers to all of a pipeline but the pipeline itself."""

    def __init__(
        self, source: _Source, channels: list[Channel], on_close: Callable[[], None] | None
    ) -> None:
        self._source = source
        self._channels = channels
        self._on_close = on_close
        self._pid = os.getpid()
        self.threads: list[threading.Thread] = []

    def abandon(self) -> None:
        """Have all threads woken, to end. Takes no lock: a finalizer calls it."""
        if os.getpid() == self._pid:  # a child has no thread that would do it, and no need
            deferred.defer(self.cancel)

    def cancel(self) -> None:
        """Wake all threads, to end. Idempotent: at exit those that were closed are among all."""
        if os.getpid() != self._pid:
            # A forked child has neither the threads nor a say in the state of their locks.
            return
        self._source.cancel()
        for channel in self._channels:
            channel.cancel()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()

    def join(self, timeout_s: float, *, warn: bool = True) -> None:
        """Wait for the threads to end."""
        if os.getpid() != self._pid:
            return
        deadline = time.monotonic() + timeout_s
        for thread in self.threads:
            if thread is threading.current_thread() or thread.ident is None:
                continue
            thread.join(max(deadline - time.monotonic(), 0.0))
            if warn and thread.is_alive():
                logger.warning(
                    "thread %s did not stop within %g s of its loader's end; it is left to finish "
                    "what it is doing",
                    thread.name,
                    timeout_s,
                )


@dataclass(frozen=True, slots=True)
class _Worker:
    """One thread of one stage."""

    stage: Stage
    index: int
    source: _Source | Channel
    output: Channel
    stats: StageStats

    def loop(self) -> None:
        own = self.index if self.stage.to_thread == "by number" else None
        with contextlib.suppress(Cancelled):
            while True:
                began = time.perf_counter()
                try:
                    number, item = self.source.get(number=own)
                except EndOfStream:
                    self._pass_end_on()
                    return
                got = time.perf_counter()
                item = self._run(number, item)
                ran = time.perf_counter()
                self.output.put(number, item)
                # A finished item must not stay alive in this frame while the next one is waited
                # for: its memory is what the next batch is decoded into.
                del item
                self.stats.add(
                    items=1,
                    busy_s=ran - got,
                    get_wait_s=got - began,
                    put_wait_s=time.perf_counter() - ran,
                )
                if own is not None:
                    own += self.stage.threads

    def _run(self, number: int, item: Any) -> Any:
        if isinstance(item, Failure):
            return item
        try:
            if self.stage.to_thread:
                return self.stage.run(self.index, number, item)
            return self.stage.run(number, item)
        except BaseException as err:
            return Failure(err)

    def _pass_end_on(self) -> None:
        """Tell the next stage how many items there are; every thread of a stage says the same."""
        count = self.source.count
        if count is not None:
            self.output.end_at(count)


_stops: WeakRegistry[_Stop] = WeakRegistry()


def _cancel_all() -> None:
    """End the pipelines that are still open when the process ends, all at once."""
    process_exit.begin()
    stops = list(_stops)
    for stop in stops:
        stop.cancel()
    deadline = time.monotonic() + _EXIT_JOIN_S
    for stop in stops:
        stop.join(max(deadline - time.monotonic(), 0.0), warn=False)


atexit.register(_cancel_all)
