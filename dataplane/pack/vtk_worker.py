"""The worker of `apart`: a process that forks a reader for each VTK file. Run as a module.

It imports VTK once, takes requests from the socket whose number is its argument, and for each forks
a reader that converts the file into a memory file and exits. The worker itself reads no file, makes
no thread and keeps no state, so that every reader begins as the first one did. It ends when its
socket closes or nothing was asked of it for a minute.

A reader ends in one of three ways: exit code 0 with samples or a reason in the memory file; exit
code 1 with a traceback on stderr; a signal, when VTK crashed.
"""

from __future__ import annotations

import logging
import os
import resource
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from dataplane.errors import ConfigError
from dataplane.pack.crossing import read_request, write_outcome
from dataplane.pack.source import SourceFile, Unreadable
from dataplane.pack.vtk_convert import VTK_CONVERTERS
from dataplane.pack.vtk_read import MAX_COMPRESSION, import_vtk

__all__ = ["main"]

IDLE_S = 60.0
_BASE_BYTES = 1 << 30
_COPIES = 4
"""How often a reader may hold the decoded data; merging pieces takes two."""
_MAX_LOG_RECORDS = 100
_MAX_LOG_CHARS = 10_000


def main(channel: socket.socket) -> None:
    """Serve requests until the other end closes, or is silent for `IDLE_S`."""
    with suppress(ConfigError):  # without VTK the first reader says so
        import_vtk()
    channel.settimeout(IDLE_S)
    while True:
        try:
            message, handles, _, _ = socket.recv_fds(channel, 1, 1, socket.MSG_CMSG_CLOEXEC)
        except (TimeoutError, ConnectionError):
            return
        if not message or not handles:
            return
        result = os.memfd_create("dataplane-vtk-result")
        status = _run_reader(handles[0], result, channel)
        with suppress(OSError):  # nobody waits any more; the next receive notices
            socket.send_fds(channel, [status.to_bytes(4, "little")], [result])
        os.close(result)
        os.close(handles[0])


def _run_reader(request: int, result: int, channel: socket.socket) -> int:
    """Fork a reader, and kill it when nobody waits for it any more; return its wait status."""
    ended, alive = os.pipe()
    reader = os.fork()
    if reader == 0:
        channel.close()
        os.close(ended)
        _read(request, result)
    os.close(alive)
    poll = select.poll()
    poll.register(ended, select.POLLIN)  # closes with the reader, however it ends
    poll.register(channel, select.POLLRDHUP)
    if not any(handle == ended for handle, _ in poll.poll()):
        os.kill(reader, signal.SIGKILL)
    os.close(ended)
    return os.waitpid(reader, 0)[1]


def _read(request: int, result: int) -> NoReturn:
    """Convert one file and exit; never returns into the worker's loop."""
    try:
        source = read_request(request)
        _limit(source.size_bytes())
        _convert(source, result)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _limit(source_bytes: int) -> None:
    """Let a file take no more memory than its bytes could decode to, and die first when short.

    VTK allocates and fills what a header asks for: without a limit, one changed bit of a small file
    is enough to fill the machine.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _BASE_BYTES + _COPIES * MAX_COMPRESSION * source_bytes
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    if limit < (most if most != resource.RLIM_INFINITY else sys.maxsize):
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _convert(source: SourceFile, result: int) -> None:
    log = _Gathered()
    document: dict[str, Any] = {"log": log.records}
    root = logging.getLogger("dataplane")
    root.addHandler(log)
    root.setLevel(logging.DEBUG)
    root.propagate = False
    try:
        write_outcome(result, VTK_CONVERTERS[source.format](source), document)
    except Exception as err:
        if isinstance(err, ConfigError):
            failed = {"kind": err.kind, "message": err.message, "hint": err.hint}
        else:
            error = Unreadable.from_exception(source.label, err).error()
            failed = {"kind": error.kind, "message": error.message, "hint": error.hint}
        write_outcome(result, (), {**document, "failed": failed})


class _Gathered(logging.Handler):
    """Keeps what is logged for the process that asked, up to a limit."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        if len(self.records) < _MAX_LOG_RECORDS:
            self.records.append((record.levelno, self.format(record)[:_MAX_LOG_CHARS]))


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as _channel:
        main(_channel)
