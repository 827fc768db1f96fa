"""The worker of `subprocess_reader`: a process whose forks, the readers, read VTK files.

Run as a module, it imports VTK once, takes requests from the socket whose number is its argument,
and hands each to a reader (`reader`), a fork of itself. The worker itself reads no file and makes
no thread, so that every reader begins as the first one did. It ends when its socket closes or
nothing was asked of it for a minute; a reader ends with its worker, in any case.

Forking costs several times what reading a file of some kilobytes does, so a reader goes on with the
next small file, or several at a time, for as long as every read is beyond complaint. Memory that a
file leaked or overwrote must not count against the next one:

- A file that is not small has a reader of its own.
- Several files that were asked for at once count only if none gave reason for complaint. If one
  did, the caller has them read singly.
- A read that ends with an error, a warning or a crash ends its reader.
- Such an end is believed of a reader's first file only. At a later one the blame may lie with an
  earlier file, so the file is read once more by a fresh reader, whose answer is the answer.
- A reader that has read many files, or whose memory has grown, is replaced.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import socket
import sys
from contextlib import suppress

from dataplane.errors import ConfigError
from dataplane.pack.meter import say_fraction
from dataplane.pack.vtk import read
from dataplane.pack.vtk.reader import LAST, SOUND, serve
from dataplane.pack.vtk.shared_memory import ALONE, TOGETHER

__all__ = ["main"]

IDLE_S = 60.0
_STATUS_BYTES = 4
_NO_ANSWER = 1 << 8
"""Wait status of an exit with the code 1."""


def main(channel: socket.socket, fraction: int) -> None:
    """Serve requests until the other end closes, or is silent for `IDLE_S`.

    Args:
        channel: socket of the requests, with `ALONE`, `SHARED` or `TOGETHER` as the message.
        fraction: memory file of the read's progress (`meter`).
    """
    read.on_progress = functools.partial(say_fraction, fraction)
    with suppress(ConfigError):  # without VTK the first reader says so
        read.import_vtk()
    channel.settimeout(IDLE_S)
    worker = _Worker(channel)
    try:
        while True:
            try:
                message, handles, _, _ = socket.recv_fds(channel, 1, 1, socket.MSG_CMSG_CLOEXEC)
            except (TimeoutError, ConnectionError):
                return
            if not message or not handles:
                return
            result = os.memfd_create("dataplane-vtk-result")
            status = worker.read(handles[0], result, message)
            with suppress(OSError):  # the caller is gone; the next receive notices
                socket.send_fds(channel, [status.to_bytes(_STATUS_BYTES, "little")], [result])
            os.close(result)
            os.close(handles[0])
    finally:
        worker.close()


class _Worker:
    """The reader that is kept for the next file, if there is one."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._reader: _Reader | None = None

    def read(self, request: int, result: int, how: bytes) -> int:
        """Have files read; return 0, or the wait status of the reader that ended over them."""
        if how == ALONE:
            self.close()
        if self._reader is None:
            self._reader = _Reader(self._channel)
        reader = self._reader
        answer = reader.ask(request, result)
        if answer == SOUND and how != ALONE:
            return 0
        status = self.close()
        if how == TOGETHER and answer != LAST:
            return status or _NO_ANSWER
        if reader.requests == 1:
            return 0 if answer else status or _NO_ANSWER
        if answer in {SOUND, LAST}:
            return 0
        with suppress(OSError):  # its output is not about this file alone
            os.ftruncate(sys.stderr.fileno(), 0)
            os.lseek(sys.stderr.fileno(), 0, os.SEEK_SET)
        return self.read(request, result, how)

    def close(self) -> int:
        """End the reader that is kept, and return its wait status. Idempotent."""
        reader, self._reader = self._reader, None
        return 0 if reader is None else reader.end()


class _Reader:
    """A fork of this process that reads files.

    Args:
        channel: socket of the requests; when it closes, the caller is gone.
    """

    def __init__(self, channel: socket.socket) -> None:
        self.requests = 0
        self._asked_from = channel
        self._socket, theirs = socket.socketpair()
        worker = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            channel.close()
            self._socket.close()
            serve(theirs, worker)
        theirs.close()

    def ask(self, request: int, result: int) -> bytes:
        """Have files read; return the answer, or nothing when the reader ended over them."""
        self.requests += 1
        try:
            socket.send_fds(self._socket, [b"r"], [request, result])
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)  # also when the reader ends
            poll.register(self._asked_from, select.POLLRDHUP)
            if not any(handle == self._socket.fileno() for handle, _ in poll.poll()):
                return b""
            return self._socket.recv(1)
        except ConnectionError:
            return b""

    def end(self) -> int:
        """Kill it, unless it has ended by itself, and return its wait status."""
        self._socket.close()
        os.kill(self._pid, signal.SIGKILL)  # one that is ending keeps the status that it ends with
        return os.waitpid(self._pid, 0)[1]


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as _channel:
        main(_channel, int(sys.argv[2]))
