"""Answers over HTTP/1.1 without TLS, received straight into memory of the caller's choice.

A client library hands out bytes in memory of its own, a few hundred KiB at a time: each is copied
once more, and each wakes a thread that then waits for the interpreter. Here the headers are read in
Python and a whole piece of the body with one native call, which holds no lock of the interpreter.

It does only what that needs: GET, answers with a Content-Length, kept connections. What it does not
understand is `NotPlain`; the caller has a client for everything else.

A connection is kept as soon as the last byte of its answer has been received, not when the answer
is closed: that may be the garbage collector's doing, which closes the socket, too. One that the
server has closed meanwhile is found out before it is used, or when nothing of an answer comes, and
another one is taken.

Thread-safe: a connection belongs to one answer at a time. A forked child begins with none, and an
answer that was on its way is broken there: two processes would share its bytes.
"""

from __future__ import annotations

import os
import random
import re
import select
import socket
import threading
import time
import weakref
from collections.abc import Mapping

from dataplane import _native
from dataplane.stores.failures import Reply
from dataplane.weak_registry import WeakRegistry

__all__ = ["NotPlain", "PlainAnswer", "PlainFailure", "PlainHttp"]

_MAX_HEAD_BYTES = 64 << 10
_HEAD_PIECE_BYTES = 16 << 10
_MAX_DIGITS = 18
_END = b"\r\n\r\n"
_STATUS_LINE = re.compile(r"HTTP/1\.1 ([2-5][0-9]{2})(?: |$)")
_IDLE_S = 30.0
"""Longer, and something between here and the server may have forgotten the connection silently."""


class NotPlain(Exception):
    """The answer is not of the kind that this client understands."""


class PlainFailure(OSError):
    """No answer, or half of one, or one that says no.

    Attributes:
        reply: what is known of it.
        headers: those of the answer, lower case.
    """

    def __init__(self, reply: Reply, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reply.text or reply.connection or f"status {reply.status}")
        self.reply = reply
        self.headers = headers or {}


class PlainHttp:
    """Connections to one server.

    Args:
        host: its name or address.
        port: its port.
        timeout_s: the longest pause of an answer.
        connect_timeout_s: the longest time for a new connection.
        max_idle: connections to keep while they are not used.
    """

    def __init__(
        self, host: str, port: int, *, timeout_s: float, connect_timeout_s: float, max_idle: int
    ) -> None:
        self._address = (host, port)
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._max_idle = max_idle
        self._idle: list[tuple[float, socket.socket]] = []
        self._lock = threading.Lock()
        self._closed = False
        weakref.finalize(self, _close_all, self._idle)
        _clients.add(self)

    def get(self, target: str, headers: Mapping[str, str]) -> PlainAnswer:
        """Send a GET and wait for the head of its answer; close the answer in the end.

        Args:
            target: path and query, quoted; ASCII.
            headers: besides those that say where the request goes; ASCII in one line.

        Raises:
            PlainFailure: no connection, or no answer.
            NotPlain: an answer of another kind.
        """
        lines = [f"GET {target} HTTP/1.1", f"Host: {_authority(*self._address)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        request = "\r\n".join([*lines, "User-Agent: dataplane", "", ""]).encode("ascii")
        while True:
            kept = self._take()
            connection = kept or self._connect()
            try:
                head, rest = _exchange(connection, request)
            except OSError as err:
                connection.close()
                if kept is not None and isinstance(err, ConnectionError):
                    continue  # the server gave it up in the same moment
                raise _broken(err) from err
            except BaseException:
                connection.close()
                raise
            try:
                return PlainAnswer(self, connection, head, rest)
            except BaseException:
                connection.close()
                raise

    def close(self) -> None:
        """Close the connections that are kept, and keep none from now on. Idempotent."""
        with self._lock:
            self._closed = True
            _close_all(self._idle)

    def _connect(self) -> socket.socket:
        """Connect to any of the server's addresses: a name may stand for many machines."""
        until_s = time.monotonic() + self._connect_timeout_s
        failure: OSError | None = None
        try:
            found = socket.getaddrinfo(*self._address, type=socket.SOCK_STREAM)
            for number, (*kind, _, address) in enumerate(random.sample(found, len(found))):
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    break
                connection = socket.socket(*kind)
                try:
                    connection.settimeout(left_s / (len(found) - number))
                    connection.connect(address)
                    connection.settimeout(self._timeout_s)
                except OSError as err:
                    connection.close()
                    failure = err
                except BaseException:
                    connection.close()
                    raise
                else:
                    return connection
        except OSError as err:  # the name is not known
            failure = err
        # A time-out here is as good as a refusal: nobody is there.
        raise PlainFailure(Reply(None, "", "", "connect")) from failure

    def _take(self) -> socket.socket | None:
        """Take the connection that was used last, if the server still has it."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                since_s, connection = self._idle.pop()
            if time.monotonic() - since_s < _IDLE_S and not _has_news(connection):
                return connection
            connection.close()

    def _keep(self, connection: socket.socket) -> None:
        now_s = time.monotonic()
        with self._lock:
            self._idle.append((now_s, connection))  # so the oldest are in front
            most = 0 if self._closed else self._max_idle
            while self._idle and (len(self._idle) > most or now_s - self._idle[0][0] > _IDLE_S):
                self._idle.pop(0)[1].close()

    def _forget(self) -> None:
        """Close this process's ends; the parent goes on with its own."""
        self._lock = threading.Lock()
        _close_all(self._idle)


class PlainAnswer:
    """An answer whose body is still to be received. Used by one thread.

    Attributes:
        status: its status.
        headers: by name in lower case; of a repeated one the last (of its length, none).
        length: bytes of its body.
    """

    def __init__(
        self, client: PlainHttp, connection: socket.socket, head: bytes, rest: bytes
    ) -> None:
        self._client = client
        self._connection: socket.socket | None = connection
        self._pid = os.getpid()
        self._rest = memoryview(rest)
        self.status, self.headers = _parse(head)
        length = self.headers.get("content-length", "")
        if "transfer-encoding" in self.headers or not _is_number(length):
            if self.status >= 500 or self.status == 429:  # whatever it says besides
                raise PlainFailure(Reply(self.status, "", ""), self.headers)
            raise NotPlain("an answer without a length")
        self.length = int(length)
        self._left = self.length

    def read_into(self, memory: memoryview) -> int:
        """Fill `memory` with what comes next, or with all that is left.

        Returns:
            How many bytes that were.

        Raises:
            PlainFailure: the connection broke, or nothing came for too long.
        """
        if self._pid != os.getpid():
            raise PlainFailure(Reply(None, "", "", "broken"))
        count = min(len(memory), self._left)
        front = min(len(self._rest), count)
        memory[:front] = self._rest[:front]
        self._rest = self._rest[front:]
        self._left -= front
        if front < count:
            self._receive(memory[front:count])
        if not self._left:
            self._finish()
        return count

    def text(self, most: int = _MAX_HEAD_BYTES) -> str:
        """Return the beginning of the body, as text."""
        content = bytearray(min(most, self._left))
        self.read_into(memoryview(content))
        return content.decode("utf-8", "replace")

    def close(self) -> None:
        """Give up what was not received yet. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _finish(self) -> None:
        """Let the connection be used again, unless either side has said more than it should."""
        wishes = self.headers.get("connection", "").lower().split(",")
        if self._rest or "close" in map(str.strip, wishes):
            self.close()
            return
        connection, self._connection = self._connection, None
        if connection is not None:
            self._client._keep(connection)

    def _receive(self, memory: memoryview) -> None:
        connection = self._connection
        if connection is None:
            raise ValueError("the answer is closed")
        try:
            got = _native.receive(connection.fileno(), memory, pause_s=self._client._timeout_s)
        except OSError as err:
            raise _broken(err) from err
        self._left -= got
        if got < len(memory):
            raise PlainFailure(Reply(None, "", "", "broken"))


def _exchange(connection: socket.socket, request: bytes) -> tuple[bytes, bytes]:
    """Send a request; return the head of its answer, and what came behind it."""
    connection.sendall(request)
    got = b""
    while _END not in got:
        piece = connection.recv(_HEAD_PIECE_BYTES)
        if not piece:
            if got:
                raise OSError("the answer ends in its head")
            raise ConnectionResetError("no answer")
        got += piece
        if len(got) > _MAX_HEAD_BYTES:
            raise NotPlain("a long head")
    head, _, rest = got.partition(_END)
    return head, rest


def _parse(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    final = _STATUS_LINE.match(first)
    if final is None:
        raise NotPlain("not a final answer of HTTP/1.1")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise NotPlain("a header in pieces")
        if name.lower() == "content-length" and "content-length" in headers:
            raise NotPlain("two lengths")
        headers[name.lower()] = value.strip()
    return int(final[1]), headers


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS


def _authority(host: str, port: int) -> str:
    name = f"[{host}]" if ":" in host else host
    return name if port == 80 else f"{name}:{port}"


def _broken(err: OSError) -> PlainFailure:
    return PlainFailure(
        Reply(None, "", "", "timeout" if isinstance(err, TimeoutError) else "broken")
    )


def _has_news(connection: socket.socket) -> bool:
    """Whether anything came without being asked for: the end, as a rule."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _close_all(idle: list[tuple[float, socket.socket]]) -> None:
    while idle:
        idle.pop()[1].close()


_clients: WeakRegistry[PlainHttp] = WeakRegistry()


def _after_fork_in_child() -> None:
    for client in _clients:
        client._forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
