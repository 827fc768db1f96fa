"""Subprocess reader: a file is read in a process of its own, so that it can harm nothing else.

VTK is C++ that trusts its files. One changed byte in a compression header makes it write where it
must not or ask for more memory than there is, and both end the process: SIGSEGV, or SIGABRT from
an uncaught `std::bad_alloc`. So no file is read by VTK in the user's process. Instead:

    this process                 worker (`worker`)              reader (`reader`)
    request (memfd)  ──────────> hands it to a reader ──────────> VTK reads, arrays and description
    arrays on it    <──────────  exit status, result (memfd) <─── into a memory file

A worker has VTK imported and reads no file itself, so no file can damage it. A reader is a fork of
it: that costs milliseconds, and not the half second of a start of Python. Memory that a reader
leaks or overwrites ends with it. Each file above `SHARED_BYTES` has a reader of its own;
smaller ones share one for as long as every read is beyond complaint, and a file that fails in a
reader that has read others is read again by a fresh one, so no file answers for another (see
`worker`). Several small files can be asked for at once, since each wait for an answer ends with
one for the GIL, and these take longer than reading a few kilobytes. Readers are the first that the
kernel kills when memory is short. As each worker is a process, sources are read in parallel.

Workers are started when there is no idle one and kept for the next file; they end by themselves
after a minute without work, and when this process ends in any way: they notice that their
socket has no other end, and the reader that is under way ends with them. They are no part of the
terminal's foreground group, so Ctrl-C is this process's to handle. A worker that is gone is
replaced; one whose reader takes unreasonably long is killed.

Thread-safe: a worker serves one thread at a time. Lock: `_lock` guards the list of idle workers
and nothing else. A forked child begins without workers.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress

from dataplane.child_process import search_path
from dataplane.errors import ConfigError, FormatError, MissingPackage
from dataplane.finalizers import finalize
from dataplane.pack.meter import Meter, read_fraction, say_fraction
from dataplane.pack.source import SourceFile, one_line
from dataplane.pack.vtk.shared_memory import (
    ALONE,
    SHARED,
    TOGETHER,
    Crossed,
    read_outcome,
    write_request,
)
from dataplane.shards import SourceSample

__all__ = ["SHARED_BYTES", "convert_in_subprocess", "convert_together"]

_log = logging.getLogger(__name__)

SHARED_BYTES = 1 << 20
"""Files below this may share a reader; above it a fork is a small part of the read."""
_WORKER_MODULE = "dataplane.pack.vtk.worker"
_MIN_READ_S = 600.0
_MIN_READ_BYTES_PER_S = 1 << 20
"""A file may take ten minutes and a second per MiB; a slower reader is in an endless loop."""
_STATUS_BYTES = 4
_SAID_BYTES = 2000
_LAST_WORDS_S = 1.0
"""Time for the last message of a worker whose socket has closed."""
_ERRORS = {cls.kind: cls for cls in (ConfigError, FormatError, MissingPackage)}


def convert_in_subprocess(source: SourceFile, meter: Meter | None = None) -> Iterator[SourceSample]:
    """Convert a VTK file (legacy, XML or parallel XML) in a process of its own.

    Args:
        source: file to read.
        meter: meter of the read's progress.

    Raises:
        FormatError: it cannot be read; that includes crashes of VTK.
        MissingPackage: VTK is not installed.
    """
    crossed = _read([source], meter or Meter())
    for level, text in crossed.document.get("log", ()):
        _log.log(int(level), "%s", text)
    failed = crossed.document.get("failed")
    if failed is not None:
        raise _ERRORS.get(failed["kind"], FormatError)(str(failed["message"]), hint=failed["hint"])
    yield from crossed.samples[0]


def convert_together(sources: Sequence[SourceFile]) -> tuple[tuple[SourceSample, ...], ...] | None:
    """Convert a few small VTK files in one go.

    Args:
        sources: files, together below `SHARED_BYTES`.

    Returns:
        The samples of each file; None after any complaint, so that `convert_in_subprocess` shall
        read them one by one and report it.
    """
    try:
        samples = _read(sources, Meter()).samples
    except ConfigError:
        raise
    except Exception:  # read singly, each file gets an error of its own
        return None
    return samples if len(samples) == len(sources) else None


def _read(sources: Sequence[SourceFile], meter: Meter) -> Crossed:
    label = sources[0].label
    worker = _borrow()
    try:
        try:
            status, result = worker.read(sources, meter)
        except ConnectionError:
            # It ended while it was idle, or was killed: that says nothing about the file.
            worker.close()
            worker = _Worker()
            status, result = worker.read(sources, meter)
    except ConnectionError as err:
        with suppress(subprocess.TimeoutExpired):
            worker.process.wait(_LAST_WORDS_S)
        worker.close()
        code = worker.process.returncode
        said = one_line(worker.said().rpartition("\n")[2])
        raise FormatError(
            f"{label}: the process that reads VTK files ended (exit code {code}): {said}"
        ) from err
    except TimeoutError as err:
        worker.close()
        raise FormatError(
            f"{label}: VTK was still reading after {_allowed_s(sources):.0f} s"
        ) from err
    except BaseException:
        worker.close()
        raise
    said = worker.said() if status else ""
    _give_back(worker)
    try:
        if status:
            raise FormatError(f"{label}: {_why(status, said)}")
        return read_outcome(result)
    finally:
        os.close(result)


def _why(status: int, said: str) -> str:
    last = one_line(said.rpartition("\n")[2])
    if not os.WIFSIGNALED(status):
        return f"its reader failed: {last or os.waitstatus_to_exitcode(status)}"
    number = os.WTERMSIG(status)
    if number == signal.SIGKILL:
        return "its reader was killed, most likely because memory was short"
    if number == signal.SIGBUS:
        return "it was cut while it was read"
    if "bad_alloc" in last:
        return "VTK ran out of memory over it: it is damaged, or too large for this machine"
    return (
        f"VTK crashed while it read it ({signal.Signals(number).name}"
        f"{f', {last}' if last else ''}); the file is damaged"
    )


def _allowed_s(sources: Sequence[SourceFile]) -> float:
    return _MIN_READ_S + sum(source.size_bytes() for source in sources) / _MIN_READ_BYTES_PER_S


def _how(sources: Sequence[SourceFile]) -> bytes:
    if len(sources) > 1:
        return TOGETHER
    return SHARED if sources[0].size_bytes() < SHARED_BYTES else ALONE


class _Worker:
    """A process that has VTK imported and forks a reader for each file. For one thread at a time.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self) -> None:
        self._has_answered = False
        self._channel, theirs = socket.socketpair()
        self._said = os.memfd_create("dataplane-vtk-said")
        finalize(self, os.close, self._said)  # read after `close`, too
        self._fraction = os.memfd_create("dataplane-vtk-fraction")
        finalize(self, os.close, self._fraction)
        # The same search path, for a package that is found through it; never the folder that
        # happens to be the current one (-P). Threads of BLAS would make forking unsafe, and those
        # of VTK compete with the other workers.
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(search_path()),
            "OPENBLAS_NUM_THREADS": "1",
            "VTK_SMP_BACKEND_IN_USE": "Sequential",
        }
        with theirs:
            passed = (theirs.fileno(), self._fraction)
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", _WORKER_MODULE, *map(str, passed)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                pass_fds=passed,
                env=environment,
                start_new_session=True,
            )

    def read(self, sources: Sequence[SourceFile], meter: Meter) -> tuple[int, int]:
        """Have files read; return the reader's wait status and a handle of its outcome.

        Raises:
            ConnectionError: the worker is gone.
            TimeoutError: it takes unreasonably long.
        """
        say_fraction(self._fraction, 0.0)
        meter.measure = self._fraction_read
        if self._has_answered:  # one that cannot start may have said why by now
            os.ftruncate(self._said, 0)
            os.lseek(self._said, 0, os.SEEK_SET)  # the worker's stderr shares this position
        self._channel.settimeout(_allowed_s(sources))
        request = os.memfd_create("dataplane-vtk-request")
        try:
            write_request(request, sources)
            socket.send_fds(self._channel, [_how(sources)], [request])
        finally:
            os.close(request)
        flags = socket.MSG_CMSG_CLOEXEC
        message, handles, _, _ = socket.recv_fds(self._channel, _STATUS_BYTES, 1, flags)
        meter.finish()
        if len(message) != _STATUS_BYTES or len(handles) != 1:
            raise ConnectionError("no answer")
        self._has_answered = True
        return int.from_bytes(message, "little"), handles[0]

    def _fraction_read(self) -> float:
        return read_fraction(self._fraction)

    def said(self) -> str:
        """Last text of the worker and its readers on stderr; after `close` too."""
        size = os.fstat(self._said).st_size
        text = os.pread(self._said, _SAID_BYTES, max(0, size - _SAID_BYTES))
        return text.decode(errors="replace").strip("\0\n ")

    def forget(self) -> None:
        """Give up this process's end, without a word to the worker: it is our parent's."""
        self._channel.close()

    def close(self) -> None:
        """End the worker, and with it its reader. Idempotent."""
        self._channel.close()
        self.process.kill()
        self.process.wait()


_lock = threading.Lock()
_idle: list[_Worker] = []
_of_parent: list[_Worker] = []


def _borrow() -> _Worker:
    with _lock:
        if _idle:
            return _idle.pop()
    return _Worker()


def _give_back(worker: _Worker) -> None:
    with _lock:
        _idle.append(worker)


def _close_idle() -> None:
    with _lock:
        workers, _idle[:] = _idle[:], []
    for worker in workers:
        worker.close()


def _after_fork_in_child() -> None:
    global _lock  # noqa: PLW0603  # a thread that held it in the parent is not here to release it
    _lock = threading.Lock()
    for worker in _idle:
        worker.forget()
    _of_parent.extend(_idle)
    _idle.clear()


atexit.register(_close_idle)
os.register_at_fork(after_in_child=_after_fork_in_child)
