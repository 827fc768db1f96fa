"""Process statistics: figures of running processes, in the cache directory, for `dataplane stats`.

    DIR/stats/N.json     figures of the process that holds byte N of `live`, 0 <= N < 1024

A process that uses the cache takes the first free N (`disk.liveness`) and, once a second while its
figures change, replaces its file by a new one (temporary name, rename). The file goes when the
process leaves; one that is left by a killed process is known by its byte, which is not locked any
more, and is ignored and removed. So there is no server, no port, and nothing to clean up.

A file is an object with `version` (1), `pid`, `program` (the name alone: arguments may hold
secrets), `started_s`, `written_s`, `size_bytes` (the budget, or null), `counters` and `gauges`
(names as in `dataplane.metrics`). Nothing is decided by it, and what is read is checked.

The thread is a daemon named dp-stats; it holds no lock while it writes. A forked child takes a
slot of its own when it first uses the cache.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from dataplane.cache.disk import locks
from dataplane.cache.disk.directory import names_in
from dataplane.cache.disk.liveness import MAX_SLOTS
from dataplane.cache.disk.session import Session
from dataplane.daemon_thread import DaemonThread
from dataplane.telemetry import gauges, logger, totals

__all__ = ["ProcessFigures", "ProcessStatistics", "read_published"]

_FOLDER = "stats"
_VERSION = 1
_INTERVAL_S = 1.0
_HEARTBEAT_S = 10.0  # a file is written anew this often although nothing has changed
_STALE_S = 60.0  # a file without a holder may be about to get one
_MAX_FILE_BYTES = 1 << 20
_MAX_NAME_CHARS = 100
_JOIN_S = 5.0


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """Figures that a running process has published.

    Attributes:
        pid: its process id, in its own namespace.
        program: its name.
        started_s: time at which it began to publish, in seconds since the epoch.
        written_s: time at which it published this.
        size_bytes: its budget for the cache.
        counters: its counters.
        gauges: its gauges.
    """

    pid: int
    program: str
    started_s: float
    written_s: float
    size_bytes: int | None
    counters: Mapping[str, float]
    gauges: Mapping[str, float]


class ProcessStatistics:
    """Statistics of this process, published until `close`.

    Args:
        session: session in the directory.
        size_bytes: budget to publish.
    """

    def __init__(self, session: Session, size_bytes: int | None) -> None:
        self._session = session
        self._size_bytes = size_bytes
        self._started_s = time.time()
        self._stopped = threading.Event()
        self._pid = os.getpid()
        self._slot = session.live.take_slot()
        self._folder = -1
        self._thread: threading.Thread | None = None
        if self._slot is None:  # a thousand others publish already
            return
        try:
            self._folder = session.directory.open_folder(_FOLDER)
            self._write(totals(), gauges())
        except OSError as err:
            logger.debug("cannot publish figures in %s: %s", session.directory.path, err)
            return
        self._thread = DaemonThread(self._publish, name="dp-stats")
        self._thread.start()

    def close(self) -> None:
        """Publish no more and remove what was published. Idempotent."""
        if self._pid != os.getpid():
            return
        self._stopped.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_JOIN_S)
        folder, self._folder = self._folder, -1
        if folder >= 0:
            with contextlib.suppress(OSError):
                os.unlink(f"{self._slot}.json", dir_fd=folder)
            locks.close_descriptor(folder)

    def _publish(self) -> None:
        written: tuple[dict[str, float], dict[str, float]] | None = None
        written_s = 0.0
        while not self._stopped.wait(_INTERVAL_S):
            figures = totals(), gauges()
            if figures == written and time.monotonic() - written_s < _HEARTBEAT_S:
                continue
            try:
                self._write(*figures)
            except OSError as err:  # a full disk; the next second may be better
                logger.debug("cannot publish figures: %s", err)
                continue
            written, written_s = figures, time.monotonic()

    def _write(self, counters: dict[str, float], standing: dict[str, float]) -> None:
        document = {
            "version": _VERSION,
            "pid": os.getpid(),
            "program": program_name(),
            "started_s": round(self._started_s, 3),
            "written_s": round(time.time(), 3),
            "size_bytes": self._size_bytes,
            "counters": counters,
            "gauges": standing,
        }
        text = json.dumps(document).encode()
        temporary = f".{self._slot}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        fd = locks.open_descriptor(temporary, flags, dir_fd=self._folder)
        try:
            os.write(fd, text)
        finally:
            locks.close_descriptor(fd)
        folder = self._folder
        os.rename(temporary, f"{self._slot}.json", src_dir_fd=folder, dst_dir_fd=folder)


def read_published(session: Session) -> list[ProcessFigures]:
    """Read the figures of every process that is alive, by slot; remove those of dead processes.

    Raises:
        OSError: the directory cannot be read.
    """
    folder = session.directory.open_folder(_FOLDER)
    try:
        found = [_read(session, folder, slot) for slot in _slots(folder)]
    finally:
        locks.close_descriptor(folder)
    return sorted(
        (figures for figures in found if figures is not None), key=lambda figures: figures.pid
    )


def program_name() -> str:
    """Return what to call this process: its script, and the subcommand of `dataplane`."""
    name = PurePath(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    if name == "__main__.py":
        name = PurePath(sys.argv[0]).parent.name
    if name == "dataplane":
        words = [word for word in sys.argv[1:] if not word.startswith("-")]
        name = " ".join([name, *words[:1]])
    return name[:_MAX_NAME_CHARS]


def _slots(folder: int) -> Iterator[int]:
    for file in names_in(folder):
        slot, dot, kind = file.partition(".")
        is_slot = dot and kind == "json" and slot.isascii() and slot.isdigit() and len(slot) < 5
        if is_slot and int(slot) < MAX_SLOTS:
            yield int(slot)


def _read(session: Session, folder: int, slot: int) -> ProcessFigures | None:
    file = f"{slot}.json"
    try:
        if not session.live.is_slot_taken(slot):
            age_s = time.time() - os.stat(file, dir_fd=folder, follow_symlinks=False).st_mtime
            if age_s > _STALE_S:
                os.unlink(file, dir_fd=folder)
            return None
        fd = locks.open_descriptor(file, os.O_RDONLY, dir_fd=folder)
    except OSError:
        return None
    try:
        text = os.read(fd, _MAX_FILE_BYTES)
    except OSError:
        return None
    finally:
        locks.close_descriptor(fd)
    return _parse(text)


def _parse(text: bytes) -> ProcessFigures | None:
    """Read a file's text; None when it is not what this release writes."""
    try:
        fields = json.loads(text)
        if fields["version"] != _VERSION:
            return None
        size = fields["size_bytes"]
        return ProcessFigures(
            int(fields["pid"]),
            str(fields["program"])[:_MAX_NAME_CHARS],
            float(fields["started_s"]),
            float(fields["written_s"]),
            None if size is None else int(size),
            _numbers(fields["counters"]),
            _numbers(fields["gauges"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return None


def _numbers(fields: Mapping[object, object]) -> dict[str, float]:
    return {str(name): float(str(value)) for name, value in fields.items()}
