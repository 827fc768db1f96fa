"""Pack sources into a dataset: convert ahead in threads, write in order, report what was left out.

The order of samples is that of the plan, whatever the number of threads: a few sources are being
read at a time, each into a queue of its own that holds one sample, and the queues are emptied in
order. Sources are started only while the files under way are below a limit, so memory holds at
most two samples per thread, and a very large file is read alone. VTK reads in
processes apart and NumPy without the GIL, so threads are enough; encoding has threads of its own,
in the writer.

The dataset exists once its index does, and the writer puts that last. An error or an interruption
stops the readers, waits for the file that each is in, and removes temporary files.
"""

from __future__ import annotations

import os
import queue
import re
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from dataplane.errors import ConfigError, FormatError
from dataplane.pack.convert import Outcome, convert
from dataplane.pack.formats import ARCHIVE
from dataplane.pack.names import unique_name
from dataplane.pack.plan import Planned, plan_sources
from dataplane.pack.skipped import counted_lines, is_counted
from dataplane.pack.source import SourceFile, Unreadable
from dataplane.shards import DatasetWriter, PackSummary, SourceSample, WriteOptions
from dataplane.stores import StoreConfig, open_store

__all__ = ["OnError", "PackProgress", "Reporter", "pack"]

OnError: TypeAlias = Literal["skip", "fail"]
MAX_READERS = 8
MAX_READ_AHEAD_BYTES = 1 << 30
"""Files under way at once, except that one may always be. Decoded they take a few times that."""
MAX_WAITING = 64
"""Sources that are read, or known to be unreadable, before it is their turn."""
_POLL_S = 0.1
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_LISTED_REASONS = 5


@dataclass(frozen=True, slots=True)
class PackProgress:
    """How far a pack is.

    Attributes:
        sources: datasets to read, and `sources_done` of them read or skipped.
        source_bytes: size of their files, and `source_bytes_done` of them.
        samples: samples written.
        array_bytes: decoded size of their arrays.
        skipped: sources left out.
        current: the source that was worked on last.
    """

    sources: int = 0
    sources_done: int = 0
    source_bytes: int = 0
    source_bytes_done: int = 0
    samples: int = 0
    array_bytes: int = 0
    skipped: tuple[Unreadable, ...] = ()
    current: str = ""


Reporter: TypeAlias = Callable[[PackProgress], None]


def pack(
    sources: Sequence[str | Path] | str | Path,
    dest_url: str,
    options: WriteOptions | None = None,
    progress: Reporter | None = None,
    *,
    on_error: OnError = "skip",
    store: StoreConfig | None = None,
) -> PackSummary:
    """Convert simulation files and folders to a packed dataset.

    Args:
        sources: files and folders, or one of them; see docs/packing.md for the formats.
        dest_url: where the dataset goes (`file:///…`, `s3://bucket/prefix`, …).
        options: how it is written.
        progress: called after each sample and each source, in this thread.
        on_error: `skip` leaves out what cannot be read and lists it in the summary; `fail` stops
            at the first, and no dataset is left. Files of formats that pack does not know, found
            in a folder, never stop it.
        store: how to reach the store.

    Returns:
        What was written, and what was skipped.

    Raises:
        ConfigError: no sources, one that is not there, a dataset at `dest_url` already, or a
            package is missing.
        NoSpace: there is no room for what an archive unpacks to.
        FormatError: nothing could be packed, or something could not with `on_error="fail"`.
        StoreError: the store failed.

    Example:
        >>> import numpy as np, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/case.npy", np.zeros((8, 8, 8)))
        ...     summary = pack([f"{folder}/case.npy"], "memory://docs-of-pack")
        >>> summary.samples, summary.arrays, summary.source_bytes
        (1, 1, 4096)
    """
    if on_error not in {"skip", "fail"}:
        raise ConfigError(f"on_error must be skip or fail, got {on_error!r}")
    if not sources:
        raise ConfigError("no sources to pack")
    options = options or WriteOptions()
    planned = plan_sources(_paths(sources))
    if all(isinstance(item, Unreadable) for item in planned):
        # Before the destination is touched: an old dataset there is replaced by a new one only.
        raise FormatError(f"nothing was packed: {_listed(planned)}")
    destination = open_store(dest_url, store)
    try:
        return _Pack(planned, options, progress, on_error).run(DatasetWriter(destination, options))
    finally:
        destination.close()


class _Pack:
    """One run: what was seen so far."""

    def __init__(
        self,
        planned: list[Planned],
        options: WriteOptions,
        progress: Reporter | None,
        on_error: OnError,
    ) -> None:
        # Files of other formats may be many more than datasets, and are left out all at once.
        left_out = tuple(
            each for each in planned if isinstance(each, Unreadable) and is_counted(each)
        )
        self._planned = [
            each for each in planned if isinstance(each, SourceFile) or not is_counted(each)
        ]
        self._readers = min(options.effective_workers, MAX_READERS)
        self._report = progress or (lambda _: None)
        self._on_error = on_error
        self._reserved = {item.key for item in planned if not _is_archive(item)}
        self._keys = {*self._reserved}
        self._progress = PackProgress(
            sources=len(planned),
            sources_done=len(left_out),
            source_bytes=sum(map(_size_bytes, planned)),
            skipped=left_out,
        )

    def run(self, writer: DatasetWriter) -> PackSummary:
        with writer:
            for item in self._progress.skipped:
                self._tolerate(item)
            self._report(self._progress)
            with closing(_read_ahead(self._planned, self._readers)) as outcomes:
                for planned, outcome in outcomes:
                    self._handle(planned, outcome, writer)
            skipped = tuple((item.label, item.reason) for item in self._progress.skipped)
            if not self._progress.samples:
                raise FormatError(f"nothing was packed: {_listed(self._progress.skipped)}")
            return replace(writer.finish(), skipped=skipped)

    def _handle(self, planned: Planned, outcome: Outcome | None, writer: DatasetWriter) -> None:
        """Take a sample, a failure, or (None) the end of a source."""
        progress = self._progress
        if outcome is None:
            progress = replace(
                progress,
                sources_done=progress.sources_done + 1,
                source_bytes_done=progress.source_bytes_done + _size_bytes(planned),
            )
        elif isinstance(outcome, Unreadable):
            progress = self._skipped(outcome)
        else:
            progress = self._written(planned, outcome, writer)
        self._progress = replace(progress, current=planned.label)
        self._report(self._progress)

    def _written(
        self, planned: Planned, sample: SourceSample, writer: DatasetWriter
    ) -> PackProgress:
        # The plan has told apart what it knows of; members of archives and blocks come in between.
        if sample.key == planned.key and sample.key in self._reserved and not _is_archive(planned):
            self._reserved.discard(sample.key)
        else:
            sample = replace(sample, key=unique_name(sample.key, self._keys, "-"))
        try:
            writer.add(sample)
        except FormatError as err:
            # The writer is as it was; a NaN attribute or an impossible permutation is the source's.
            return self._skipped(Unreadable.from_error(planned.label, err))
        self._keys.add(sample.key)
        size_bytes = sum(array.values.nbytes for array in sample.arrays.values())
        return replace(
            self._progress,
            samples=self._progress.samples + 1,
            array_bytes=self._progress.array_bytes + size_bytes,
        )

    def _tolerate(self, item: Unreadable) -> None:
        if self._on_error == "fail" and item.asked_for:
            raise item.error()

    def _skipped(self, item: Unreadable) -> PackProgress:
        self._tolerate(item)
        return replace(self._progress, skipped=(*self._progress.skipped, item))


def _paths(sources: Sequence[str | Path] | str | Path) -> list[Path]:
    """Check that what the user named is there, before any work is done."""
    named = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    for source in named:
        if isinstance(source, str) and _URL.match(source):
            raise ConfigError(
                f"sources are local files and folders, not URLs: {source}",
                hint="mount the bucket first (`dataplane mount URL FOLDER`), and pack FOLDER",
            )
        if not isinstance(source, str | os.PathLike):
            raise ConfigError(f"a source is a path, got {source!r}")
    paths = [Path(source) for source in named]
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise ConfigError(f"no such file or folder: {', '.join(missing[:_LISTED_REASONS])}")
    return paths


def _size_bytes(planned: Planned) -> int:
    return planned.size_bytes() if isinstance(planned, SourceFile) else 0


def _is_archive(item: Planned) -> bool:
    return isinstance(item, SourceFile) and item.format == ARCHIVE


def _listed(left_out: Sequence[Planned]) -> str:
    skipped = [item for item in left_out if isinstance(item, Unreadable)]
    if not skipped:
        return "the sources hold no files"
    alone = [item for item in skipped if not is_counted(item)]
    listed = [str(item.error()) for item in alone[:_LISTED_REASONS]]
    if len(alone) > _LISTED_REASONS:
        listed.append(f"and {len(alone) - _LISTED_REASONS} more")
    return "; ".join([*listed, *counted_lines(skipped)])


class _Feed:
    """The outcomes of one source, made in a reader thread and taken by another."""

    def __init__(self, source: SourceFile) -> None:
        self.source = source
        self.size_bytes = source.size_bytes()
        self._queue: queue.Queue[Outcome | BaseException | None] = queue.Queue(maxsize=1)

    def fill(self, stop: threading.Event) -> None:
        """Read the source; every end, an error included, is put into the queue."""
        end: BaseException | None = None
        try:
            with closing(convert(self.source)) as outcomes:
                for outcome in outcomes:
                    if not self._put(outcome, stop):
                        return
        except BaseException as err:  # handed to the thread that takes
            end = err
        self._put(end, stop)

    def take(self) -> Iterator[Outcome]:
        """Yield the outcomes, and raise what ended the reading."""
        while (item := self._queue.get()) is not None:
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


def _read_ahead(
    planned: Sequence[Planned], readers: int
) -> Generator[tuple[Planned, Outcome | None], None, None]:
    """Yield what each source gives, in order, and None after each; read up to `readers` at once."""
    stop = threading.Event()
    pool = ThreadPoolExecutor(readers, thread_name_prefix="dp-pack")
    waiting: deque[_Feed | Unreadable] = deque()
    upcoming = deque(planned)
    try:
        while upcoming or waiting:
            while (
                upcoming
                and len(waiting) < MAX_WAITING
                and _may_start(upcoming[0], waiting, readers)
            ):
                item = upcoming.popleft()
                if isinstance(item, Unreadable):
                    waiting.append(item)
                    continue
                feed = _Feed(item)
                pool.submit(feed.fill, stop)
                waiting.append(feed)
            first = waiting.popleft()
            if isinstance(first, Unreadable):
                yield first, first
                yield first, None
                continue
            for outcome in first.take():
                yield first.source, outcome
            yield first.source, None
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _may_start(item: Planned, waiting: deque[_Feed | Unreadable], readers: int) -> bool:
    feeds = [feed for feed in waiting if isinstance(feed, _Feed)]
    under_way_bytes = sum(feed.size_bytes for feed in feeds)
    if not feeds:
        return True
    return len(feeds) < readers and under_way_bytes + _size_bytes(item) <= MAX_READ_AHEAD_BYTES
