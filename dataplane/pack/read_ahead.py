"""Read-ahead: sources read in threads, their outcomes handed out in the order of the plan.

A few sources are being read at a time, each into a queue of its own that holds one sample. Sources
are started only while the files under way are below a limit, so memory holds at most two samples
per thread, and a very large file is read alone. Small files that follow each other are read in one
go, where that is faster, and count as one source.

For one consumer thread; `close` stops the others and waits for the file that each is in.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from dataplane.pack.convert import Outcome, convert, convert_several, together
from dataplane.pack.meter import Meter
from dataplane.pack.plan import Planned
from dataplane.pack.source import SourceFile, Unreadable

__all__ = ["MAX_READ_AHEAD_BYTES", "MAX_WAITING", "TICK", "ReadAhead", "Tick"]

MAX_READ_AHEAD_BYTES = 1 << 30
"""Bytes of files under way, except that one may always be. Decoded they take a few times that."""
MAX_WAITING = 64
"""Sources that are read, or known to be unreadable, before it is their turn."""
TICK_S = 0.25
"""Time between ticks to a consumer that waits for a long read."""
_POLL_S = 0.1


class Tick:
    """A tick: nothing new, the source is still being read."""


TICK = Tick()


class _Feed:
    """The outcomes of one source, made in a reader thread and taken by the consumer.

    Args:
        source: source to read.
        read: number of the read that it is part of; small files share one.
    """

    def __init__(self, source: SourceFile, read: int) -> None:
        self.source = source
        self.read = read
        self.size_bytes = source.size_bytes()
        self.meter = Meter()
        self._queue: queue.Queue[Outcome | BaseException | None] = queue.Queue(maxsize=1)

    def fill(
        self, stop: threading.Event, read: Generator[Outcome, None, None] | None = None
    ) -> None:
        """Read the source; every end, an error included, is put into the queue.

        Args:
            stop: event that is set when the consumer has gone.
            read: samples of the source, where it was read already.
        """
        end: BaseException | None = None
        try:
            with closing(read or convert(self.source, self.meter)) as outcomes:
                for outcome in outcomes:
                    if not self._put(outcome, stop):
                        return
        except BaseException as err:  # handed to the consumer
            end = err
        self.fail(stop, end)

    def fail(self, stop: threading.Event, end: BaseException | None) -> None:
        """Put the end of the source, and the error that ended it, into the queue."""
        self.meter.finish()
        self._put(end, stop)

    def take(self) -> Iterator[Outcome | Tick]:
        """Yield the outcomes, and ticks while there are none; raise the error that ended them."""
        while True:
            try:
                item = self._queue.get(timeout=TICK_S)
            except queue.Empty:
                yield TICK
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def _put(self, item: Outcome | BaseException | None, stop: threading.Event) -> bool:
        while not stop.is_set():
            try:
                self._queue.put(item, timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False


def _fill_together(feeds: Sequence[_Feed], stop: threading.Event) -> None:
    """Read the sources of several feeds in one go."""
    filled = 0
    try:
        for read in convert_several([feed.source for feed in feeds]):
            feeds[filled].fill(stop, read)
            filled += 1
            if stop.is_set():
                return
    except BaseException as err:  # as in `fill`
        feeds[filled].fail(stop, err)


class ReadAhead:
    """A reader of up to `readers` sources at once."""

    def __init__(self, planned: Sequence[Planned], readers: int) -> None:
        self._readers = readers
        self._upcoming = deque(planned)
        self._waiting: deque[_Feed | Unreadable] = deque()
        self._taken: _Feed | None = None
        self._reads = 0
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="dp-pack")

    def outcomes(self) -> Iterator[tuple[Planned, Outcome | Tick | None]]:
        """Yield the outcomes of each source, in order, and None after each."""
        while self._upcoming or self._waiting:
            self._start()
            first = self._waiting.popleft()
            if isinstance(first, Unreadable):
                yield first, first
                yield first, None
                continue
            self._taken = first
            for outcome in first.take():
                yield first.source, outcome
            self._taken = None
            yield first.source, None

    def read_bytes(self) -> int:
        """Return the bytes that were read of the sources that are not done."""
        feeds = [feed for feed in (self._taken, *self._waiting) if isinstance(feed, _Feed)]
        return sum(int(feed.size_bytes * feed.meter.fraction()) for feed in feeds)

    def close(self) -> None:
        """Stop reading. Idempotent."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def _start(self) -> None:
        while (
            self._upcoming
            and len(self._waiting) < MAX_WAITING
            and self._may_start(self._upcoming[0])
        ):
            sources = together(self._upcoming, MAX_READ_AHEAD_BYTES - self._under_way_bytes())
            if sources:
                self._reads += 1
                feeds = [_Feed(source, self._reads) for source in sources]
                self._pool.submit(_fill_together, feeds, self._stop)
                self._waiting.extend(feeds)
                for _ in feeds:
                    self._upcoming.popleft()
                continue
            item = self._upcoming.popleft()
            if isinstance(item, Unreadable):
                self._waiting.append(item)
                continue
            self._reads += 1
            feed = _Feed(item, self._reads)
            self._pool.submit(feed.fill, self._stop)
            self._waiting.append(feed)

    def _may_start(self, item: Planned) -> bool:
        reads = {feed.read for feed in self._waiting if isinstance(feed, _Feed)}
        if not reads:
            return True
        size_bytes = item.size_bytes() if isinstance(item, SourceFile) else 0
        return (
            len(reads) < self._readers
            and self._under_way_bytes() + size_bytes <= MAX_READ_AHEAD_BYTES
        )

    def _under_way_bytes(self) -> int:
        return sum(feed.size_bytes for feed in self._waiting if isinstance(feed, _Feed))
