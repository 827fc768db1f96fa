"""The opener of our own requests: proxies and TLS from the standard library, and whole heads only.

The standard library takes the end of a connection for the end of a response's headers, with half of
the last one. Here that is an incomplete response, as it is in a body. No state.
"""

from __future__ import annotations

import functools
import http.client
import ssl
import urllib.request
from typing import BinaryIO

__all__ = ["make_opener"]


def make_opener(context: ssl.SSLContext) -> urllib.request.OpenerDirector:
    """Make an opener that knows proxies, and hands out redirections and errors as they are.

    Args:
        context: TLS context that checks certificates.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler(), _Http(), _Https(context)):
        opener.add_handler(handler)
    return opener


class _Lines:
    """A file of lines that remembers the last one."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.last = b""

    def readline(self, limit: int = -1) -> bytes:
        self.last = self._stream.readline(limit)
        return self.last

    def close(self) -> None:
        """Close the stream, as the standard library does when what comes is no response."""
        self._stream.close()


class _Response(http.client.HTTPResponse):
    def begin(self) -> None:
        """Read the head.

        Raises:
            IncompleteRead: it ends without the empty line.
        """
        stream = self.fp
        lines = _Lines(stream)
        self.fp = lines  # type: ignore[assignment]  # nothing but lines is read of it here
        try:
            super().begin()
        finally:
            if self.fp is not None:  # else it has been closed: what came is no response
                self.fp = stream
        if lines.last not in (b"\r\n", b"\n"):
            raise http.client.IncompleteRead(lines.last)


class _Connection(http.client.HTTPConnection):
    response_class = _Response


class _TlsConnection(http.client.HTTPSConnection):
    response_class = _Response


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._make = functools.partial(_TlsConnection, context=context)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._make, req)
