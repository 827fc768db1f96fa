"""Just enough HTTP/1.1 on a blocking socket: read a request's head, read its body, write a head.

This is not a web framework. It is lean because the endpoint must not be the bottleneck of a
benchmark: one `recv` for a small request, one regular expression over its headers. It is strict
because it also meets hostile input: every length is limited, and a request whose framing is in
doubt (two lengths, bare line feeds, folded headers) is refused and its connection closed.

Timeouts are the kernel's (`SO_RCVTIMEO`), so that sockets stay blocking and `sendfile` needs no
polling. A reader belongs to the one thread that serves its connection.
"""

from __future__ import annotations

import functools
import re
import socket
import struct
import time
from email.utils import formatdate
from http import HTTPStatus

from dataplane_testing.s3.model import Limits, S3Error

__all__ = ["ConnectionReader", "RequestHead", "http_date", "parse_head", "response_head"]

_RECV_BYTES = 64 << 10
_BODY_BUFFER_BYTES = 1 << 20
_METHOD = re.compile(r"[A-Z]{1,16}")
# Targets in absolute form (proxies) are refused; so are raw spaces, controls and non-ASCII.
_TARGET = re.compile(r"/[!-~]*")
_HEADERS = re.compile(r"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\r\n\0]*(?:\r\n|\Z))*")
# Two of these in one request would let two readers disagree about it.
_SINGLE = frozenset({"authorization", "content-length", "host", "range", "transfer-encoding"})
_REASONS = {status.value: status.phrase for status in HTTPStatus}


class RequestHead:
    """A request line and its headers.

    Attributes:
        method: method in upper case.
        path: path of the target, still percent-encoded.
        query: query of the target, still percent-encoded, without `?`.
        headers: headers by name in lower case; repeated ones joined by commas. Values are Latin-1.
        keep_alive: whether the client wants to use the connection again.
    """

    __slots__ = ("headers", "keep_alive", "method", "path", "query")

    def __init__(
        self, method: str, target: str, headers: dict[str, str], *, keep_alive: bool
    ) -> None:
        self.method = method
        self.path, _, self.query = target.partition("?")
        self.headers = headers
        self.keep_alive = keep_alive

    def content_length(self) -> int | None:
        """Return the declared length of the body, or None where none is declared.

        Raises:
            S3Error: the header is not a decimal number.
        """
        text = self.headers.get("content-length")
        if text is None:
            return None
        if not (text.isascii() and text.isdecimal()) or len(text) > 18:
            raise _bad_request(f"Content-Length is not a number: {text[:40]!r}")
        return int(text)


def _bad_request(message: str, status: int = 400) -> S3Error:
    return S3Error(status, "BadRequest", message, close=True)


def parse_head(block: bytes, limits: Limits) -> RequestHead:
    """Read a request line and headers; `block` ends before the empty line.

    Raises:
        S3Error: it is not a well-formed HTTP/1.1 head, or is over a limit.
    """
    line, _, rest = block.decode("latin-1").partition("\r\n")
    try:
        method, target, version = line.split(" ")
    except ValueError:
        raise _bad_request("the request line is not METHOD TARGET VERSION") from None
    if version not in {"HTTP/1.1", "HTTP/1.0"}:
        raise _bad_request("only HTTP/1.1 is spoken here", 505)
    if len(target) > limits.target_bytes:
        raise _bad_request(f"the target is longer than {limits.target_bytes} bytes", 414)
    if not _METHOD.fullmatch(method) or not _TARGET.fullmatch(target):
        raise _bad_request("the method or target has characters that are not allowed")
    if not _HEADERS.fullmatch(rest):
        raise _bad_request("a header line is not NAME: VALUE")
    headers: dict[str, str] = {}
    lines = rest.split("\r\n") if rest else []
    if len(lines) > limits.header_count:
        raise _bad_request(f"more than {limits.header_count} headers", 431)
    for entry in lines:
        name, _, value = entry.partition(":")
        name = name.lower()
        value = value.strip(" \t")
        if name in headers:
            if name in _SINGLE:
                raise _bad_request(f"more than one {name} header")
            value = f"{headers[name]},{value}"
        headers[name] = value
    if "host" not in headers and version == "HTTP/1.1":
        raise _bad_request("no Host header")
    if "transfer-encoding" in headers:
        raise S3Error(
            501,
            "NotImplemented",
            "Transfer-Encoding is not supported: send Content-Length, with aws-chunked if needed",
            close=True,
        )
    connection = headers.get("connection", "").lower()
    keep_alive = "close" not in connection if version == "HTTP/1.1" else "keep-alive" in connection
    return RequestHead(method, target, headers, keep_alive=keep_alive)


def http_date(seconds: float) -> str:
    """Write a time as HTTP does: `Sun, 06 Nov 1994 08:49:37 GMT`."""
    return formatdate(seconds, usegmt=True)


@functools.lru_cache(maxsize=1)
def _date_of(second: int) -> str:
    return http_date(second)


def response_head(
    status: int, headers: str, content_bytes: int | None, request_id: str, *, close: bool
) -> bytes:
    """Write a status line and headers.

    Args:
        status: HTTP status.
        headers: header lines that each end in CRLF.
        content_bytes: declared length; None for responses that have none (204, 304).
        request_id: id that is sent to the client and found in XML errors.
        close: whether the connection ends after this response.
    """
    length = "" if content_bytes is None else f"Content-Length: {content_bytes}\r\n"
    ending = "Connection: close\r\n" if close else ""
    return (
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}\r\n{headers}{length}"
        f"Date: {_date_of(int(time.time()))}\r\n"
        f"x-amz-request-id: {request_id}\r\n{ending}\r\n"
    ).encode("latin-1")


class ConnectionReader:
    """Bytes that arrive on one connection: heads, then bodies, each limited in size and time."""

    def __init__(self, sock: socket.socket, limits: Limits) -> None:
        self._sock = sock
        self._limits = limits
        self._pending = b""
        self._timeout_s = 0.0
        self._buffer: memoryview | None = None
        self.body_left = 0
        """Bytes of the current request's body that have not been read."""
        self._continue_due = False

    def read_head(self) -> bytes | None:
        """Return the next request's head without its empty line, or None when there is no more.

        Raises:
            S3Error: it is too long (431) or too slow (408).
            OSError: the connection broke.
        """
        pending, self._pending = self._pending, b""
        if not pending:
            self._set_timeout(self._limits.idle_s)
            try:
                pending = self._sock.recv(_RECV_BYTES)
            except BlockingIOError:
                return None  # an idle connection has had its time
            if not pending:
                return None
        end = pending.find(b"\r\n\r\n")
        if end < 0:
            pending, end = self._read_rest_of_head(pending)
        if end > self._limits.head_bytes:
            raise _bad_request(f"headers are longer than {self._limits.head_bytes} bytes", 431)
        self._pending = pending[end + 4 :]
        return pending[:end]

    def _read_rest_of_head(self, pending: bytes) -> tuple[bytes, int]:
        deadline_s = time.monotonic() + self._limits.head_s
        while len(pending) <= self._limits.head_bytes:
            left_s = deadline_s - time.monotonic()
            try:
                if left_s <= 0:
                    raise BlockingIOError
                self._set_timeout(left_s)
                more = self._sock.recv(_RECV_BYTES)
            except BlockingIOError:
                raise S3Error(
                    408, "RequestTimeout", "the headers did not arrive in time", close=True
                ) from None
            if not more:
                raise ConnectionResetError("the client left in the middle of a head")
            searched = max(0, len(pending) - 3)
            pending += more
            end = pending.find(b"\r\n\r\n", searched)
            if end >= 0:
                return pending, end
        return pending, len(pending)

    def begin_body(self, size_bytes: int, *, expects_continue: bool) -> None:
        """Announce the body of the head just read."""
        self.body_left = size_bytes
        self._continue_due = expects_continue and size_bytes > 0

    @property
    def continue_due(self) -> bool:
        """Whether the client still waits for `100 Continue` before it sends its body."""
        return self._continue_due

    def read_body(self, limit_bytes: int) -> memoryview:
        """Return 1 … `limit_bytes` bytes of the body, or none at its end.

        The result is valid until the next call.

        Raises:
            S3Error: nothing came for too long.
            ConnectionResetError: the client left before the body's declared end.
        """
        want = min(limit_bytes, self.body_left, _BODY_BUFFER_BYTES)
        if want == 0:
            return memoryview(b"")
        if self._pending:
            part = memoryview(self._pending)[:want]
            self._pending = self._pending[len(part) :]
        else:
            part = self._receive(want)
        self.body_left -= len(part)
        return part

    def _receive(self, want: int) -> memoryview:
        if self._continue_due:
            self._continue_due = False
            self._sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._buffer is None:
            self._buffer = memoryview(bytearray(_BODY_BUFFER_BYTES))
        self._set_timeout(self._limits.body_s)
        try:
            count = self._sock.recv_into(self._buffer, want)
        except BlockingIOError:
            raise S3Error(
                400, "RequestTimeout", "the body did not arrive in time", close=True
            ) from None
        if count == 0:
            raise ConnectionResetError("the client left in the middle of a body")
        return self._buffer[:count]

    def read_line(self, limit_bytes: int) -> bytes:
        """Return one line of the body without its CRLF (for aws-chunked framing).

        Raises:
            S3Error: the line is longer than `limit_bytes`, or the body ends in it.
        """
        while True:
            end = self._pending.find(b"\r\n", 0, limit_bytes + 2)
            if end >= 0:
                break
            if len(self._pending) >= min(limit_bytes + 2, self.body_left):
                raise S3Error(400, "IncompleteBody", "the chunked body is malformed", close=True)
            want = min(_RECV_BYTES, self.body_left - len(self._pending))
            self._pending += bytes(self._receive(want))
        if end + 2 > self.body_left:
            raise S3Error(400, "IncompleteBody", "the chunked body is malformed", close=True)
        line, self._pending = self._pending[:end], self._pending[end + 2 :]
        self.body_left -= end + 2
        return line

    def drain(self, limit_bytes: int) -> bool:
        """Throw the rest of the body away; False where that is more than `limit_bytes`."""
        if self._continue_due or self.body_left > limit_bytes:
            return False
        while self.body_left:
            self.read_body(self.body_left)
        return True

    def _set_timeout(self, seconds: float) -> None:
        if seconds != self._timeout_s:
            self._timeout_s = seconds
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval(seconds))


def timeval(seconds: float) -> bytes:
    """Return a kernel `struct timeval`; at least a millisecond, as zero means forever."""
    return struct.pack("@ll", int(seconds), max(int(seconds % 1 * 1e6), 1000))
