"""The head of an HTTP/1.1 response: received up to its empty line, and parsed. No state.

The standard library parses it. Faults that it would overlook (a folded line, a stray carriage
return, a line that is no header, two lengths) are refused here: where two readers may disagree
about the length of a body, the client library shall be the only one.
"""

from __future__ import annotations

import http.client
import io
from collections.abc import Callable

from dataplane.stores.http.failures import UnsupportedResponse

__all__ = ["MAX_HEAD_BYTES", "parse_head", "receive_head"]

MAX_HEAD_BYTES = 64 << 10
_PIECE_BYTES = 16 << 10
_END = b"\r\n\r\n"
_HTTP_1_1 = 11
"""HTTP/1.1, as `http.client` writes versions."""


def receive_head(receive: Callable[[int], bytes]) -> tuple[bytes, bytes]:
    """Receive the head of a response, up to its empty line.

    Args:
        receive: function for at most so many bytes, as soon as there are some; none at the end.

    Returns:
        The head with its empty line, and the bytes that came behind it.

    Raises:
        ConnectionResetError: nothing came.
        OSError: it ends before its empty line.
        UnsupportedResponse: it is too long.
    """
    got = b""
    while _END not in got:
        piece = receive(_PIECE_BYTES)
        if not piece:
            if got:
                raise OSError("the response ends in its head")
            raise ConnectionResetError("no response")
        got += piece
        if len(got) > MAX_HEAD_BYTES:
            raise UnsupportedResponse("a long head")
    head, _, rest = got.partition(_END)
    return head + _END, rest


def parse_head(head: bytes) -> tuple[int, dict[str, str], bool]:
    """Parse a status line and headers.

    Args:
        head: bytes up to and with the empty line.

    Returns:
        The status; the headers by name in lower case, characters standing for bytes, of a repeated
        one the last; and whether the server closes the connection behind this response.

    Raises:
        UnsupportedResponse: it is not the head of a final response of HTTP/1.1, or its lines may be
            read in several ways.
    """
    lines = head.removesuffix(_END).split(b"\r\n")
    if any(line[:1] in (b" ", b"\t") or b"\r" in line or b"\n" in line for line in lines):
        raise UnsupportedResponse("a header in pieces")
    response = http.client.HTTPResponse(_Received(head))  # type: ignore[arg-type]
    try:
        response.begin()
    except (http.client.HTTPException, ValueError) as err:
        raise UnsupportedResponse(f"not a response of HTTP/1.1: {type(err).__name__}") from err
    if response.version != _HTTP_1_1 or not 200 <= response.status < 600:
        raise UnsupportedResponse("not a final response of HTTP/1.1")
    message = response.headers
    if message.defects or message.get_unixfrom() or len(message) != len(lines) - 1:
        raise UnsupportedResponse("a line that is no header")
    if len(message.get_all("content-length", ())) > 1:
        raise UnsupportedResponse("two lengths")
    headers = {name.lower(): value.strip() for name, value in message.items()}
    return response.status, headers, response.will_close


class _Received:
    """The part of a socket that `HTTPResponse` uses, over bytes that have been received."""

    def __init__(self, head: bytes) -> None:
        self._head = head

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._head)
