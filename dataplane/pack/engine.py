"""Packing of sources to a dataset: conversion ahead in threads, writing in order, a report.

The order of samples is that of the plan with any number of threads (`read_ahead`). VTK reads in
subprocesses and NumPy without the GIL, so threads are enough; encoding has threads of its own, in
the writer.

The dataset exists once its index does, and the writer puts that last. An error or an interruption
stops the readers, waits for the file that each is in, and removes temporary files.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from dataplane.errors import ConfigError, FormatError
from dataplane.pack.convert import Outcome
from dataplane.pack.formats import ARCHIVE
from dataplane.pack.names import unique_name
from dataplane.pack.plan import Planned, plan_sources
from dataplane.pack.read_ahead import TICK_S, ReadAhead, Tick
from dataplane.pack.skipped import counted_lines, is_counted, left_out_of
from dataplane.pack.source import SourceFile, Unreadable
from dataplane.shards import DatasetWriter, PackSummary, SourceSample, WriteOptions
from dataplane.stores import StoreConfig, open_store

__all__ = ["NOTHING_PACKED", "OnError", "PackProgress", "Reporter", "pack"]

OnError: TypeAlias = Literal["skip", "fail"]
Stage: TypeAlias = Literal["reading", "writing", "storing"]
MAX_READERS = 8
NOTHING_PACKED = "nothing was packed"
"""Beginning of the message over a pack that wrote no sample."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_LISTED_REASONS = 5


@dataclass(frozen=True, slots=True)
class PackProgress:
    """Progress of a pack.

    Attributes:
        sources: datasets to read, and `sources_done` of them read or skipped.
        source_bytes: size of their files, and `source_bytes_done` of them.
        samples: samples written.
        array_bytes: decoded size of their arrays.
        skipped: sources left out.
        left_out: parts of sources that samples lack: source, names, reason.
        notes: sources of which nothing is lost.
        current: source that is worked on, or was last.
        stage: step that it is in, `reading` or `writing`; `storing` when all were read.
        bytes_under_way: progress of the sources that are not done: half of their bytes that were
            read, and half of those that were written.
    """

    sources: int = 0
    sources_done: int = 0
    source_bytes: int = 0
    source_bytes_done: int = 0
    samples: int = 0
    array_bytes: int = 0
    skipped: tuple[Unreadable, ...] = ()
    left_out: tuple[tuple[str, str, str], ...] = ()
    notes: tuple[Unreadable, ...] = ()
    current: str = ""
    stage: Stage = "reading"
    bytes_under_way: int = 0

    @property
    def fraction(self) -> float:
        """Fraction of the work that is done, by the sizes of files."""
        return min(1.0, (self.source_bytes_done + self.bytes_under_way) / max(1, self.source_bytes))


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
        dest_url: URL of the dataset (`file:///…`, `s3://bucket/prefix`, …).
        options: options of the writer.
        progress: function called after each sample and each source, and a few times a second while
            a large one is read or written, in this thread.
        on_error: `skip` leaves sources out that cannot be read and lists them in the summary;
            `fail` stops at the first, and no dataset is left. Files of formats that pack does not
            know, found in a folder, never stop it.
        store: configuration of the store.

    Returns:
        A summary: samples written, sources skipped, and parts of sources that samples lack.

    Raises:
        ConfigError: no sources, one that is not there, a dataset at `dest_url` already, or a
            package is missing.
        NoSpace: there is no space for the content of an archive.
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
        raise FormatError(f"{NOTHING_PACKED}: {_listed(planned)}")
    destination = open_store(dest_url, store)
    try:
        return _Pack(planned, options, progress, on_error).run(DatasetWriter(destination, options))
    finally:
        destination.close()


class _Pack:
    """State of one run."""

    def __init__(
        self,
        planned: list[Planned],
        options: WriteOptions,
        progress: Reporter | None,
        on_error: OnError,
    ) -> None:
        # Files of other formats may be many more than datasets, and are left out all at once.
        counted = [each for each in planned if isinstance(each, Unreadable) and is_counted(each)]
        notes = tuple(each for each in counted if each.is_note)
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
            sources_done=len(counted),
            source_bytes=sum(map(_size_bytes, planned)),
            skipped=tuple(each for each in counted if not each.is_note),
            notes=notes,
        )

    def run(self, writer: DatasetWriter) -> PackSummary:
        with writer:
            for item in self._progress.skipped:
                self._tolerate(item)
            self._report(self._progress)
            with closing(ReadAhead(self._planned, self._readers)) as ahead:
                for planned, outcome in ahead.outcomes():
                    self._handle(planned, outcome, writer, ahead)
            skipped = tuple((item.label, item.reason) for item in self._progress.skipped)
            if not self._progress.samples:
                raise FormatError(f"{NOTHING_PACKED}: {_listed(self._progress.skipped)}")
            self._progress = replace(self._progress, stage="storing", bytes_under_way=0)
            self._report(self._progress)
            notes = tuple((item.label, item.reason) for item in self._progress.notes)
            left_out = self._progress.left_out
            return replace(writer.finish(), skipped=skipped, left_out=left_out, notes=notes)

    def _handle(
        self,
        planned: Planned,
        outcome: Outcome | Tick | None,
        writer: DatasetWriter,
        ahead: ReadAhead,
    ) -> None:
        """Take a sample, a failure, a tick, or (None) the end of a source."""
        progress = self._progress
        if isinstance(outcome, Tick):
            progress = replace(progress, stage="reading", bytes_under_way=ahead.read_bytes() // 2)
        elif outcome is None:
            progress = replace(
                progress,
                sources_done=progress.sources_done + 1,
                source_bytes_done=progress.source_bytes_done + _size_bytes(planned),
            )
        elif isinstance(outcome, Unreadable):
            progress = self._skipped(outcome)
        else:
            progress = self._written(planned, outcome, writer, ahead)
        self._progress = replace(progress, current=planned.label)
        self._report(self._progress)

    def _written(
        self, planned: Planned, sample: SourceSample, writer: DatasetWriter, ahead: ReadAhead
    ) -> PackProgress:
        # The plan has told apart what it knows of; members of archives and blocks come in between.
        if sample.key == planned.key and sample.key in self._reserved and not _is_archive(planned):
            self._reserved.discard(sample.key)
        else:
            sample = replace(sample, key=unique_name(sample.key, self._keys, "-"))
        try:
            writer.add(sample, self._reporter(planned, sample, ahead))
        except FormatError as err:
            # The writer is as it was; a NaN attribute or an impossible permutation is the source's.
            return self._skipped(Unreadable.from_error(planned.label, err))
        self._keys.add(sample.key)
        return replace(
            self._progress,
            samples=self._progress.samples + 1,
            array_bytes=self._progress.array_bytes + _array_bytes(sample),
            left_out=(*self._progress.left_out, *left_out_of(sample, planned)),
        )

    def _reporter(
        self, planned: Planned, sample: SourceSample, ahead: ReadAhead
    ) -> Callable[[int], None]:
        """Return the writer's callback for the decoded bytes of a sample that are written."""
        total_bytes = max(1, _array_bytes(sample))
        next_s = time.monotonic() + TICK_S

        def written(decoded_bytes: int) -> None:
            nonlocal next_s
            if time.monotonic() < next_s:
                return
            next_s = time.monotonic() + TICK_S
            share = min(1.0, decoded_bytes / total_bytes)
            under_way = (ahead.read_bytes() + int(_size_bytes(planned) * share)) // 2
            self._progress = replace(
                self._progress, current=planned.label, stage="writing", bytes_under_way=under_way
            )
            self._report(self._progress)

        return written

    def _tolerate(self, item: Unreadable) -> None:
        if self._on_error == "fail" and item.asked_for:
            raise item.error()

    def _skipped(self, item: Unreadable) -> PackProgress:
        self._tolerate(item)
        if item.is_note:
            return replace(self._progress, notes=(*self._progress.notes, item))
        return replace(self._progress, skipped=(*self._progress.skipped, item))


def _paths(sources: Sequence[str | Path] | str | Path) -> list[Path]:
    """Check that the sources that the user named are there, before any work is done."""
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


def _array_bytes(sample: SourceSample) -> int:
    return sum(array.values.nbytes for array in sample.arrays.values())


def _is_archive(item: Planned) -> bool:
    return isinstance(item, SourceFile) and item.format == ARCHIVE


def _listed(left_out: Sequence[Planned]) -> str:
    skipped = [item for item in left_out if isinstance(item, Unreadable) and not item.is_note]
    if not skipped:
        return "the sources hold no files"
    alone = [item for item in skipped if not is_counted(item)]
    listed = [str(item.error()) for item in alone[:_LISTED_REASONS]]
    if len(alone) > _LISTED_REASONS:
        listed.append(f"and {len(alone) - _LISTED_REASONS} more")
    return "; ".join([*listed, *counted_lines(skipped)])
