"""A response over HTTP/1.1, received straight into memory of the caller's choice.

A client library hands out bytes in memory of its own, a few hundred KiB at a time: each is copied
once more, and each wakes a thread that then waits for the interpreter. Here the head is read in
Python and a whole piece of the body with one native call; only the bytes that came along with the
head pass through Python.

It supports only what that needs: GET, responses with a Content-Length, kept connections. All else
is an `UnsupportedResponse`; the caller has a client for that.

Used by one thread. In a forked child a response that was on its way is broken: two processes would
share its bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from dataplane.stores.failures import Reply
from dataplane.stores.http.channels import Channel
from dataplane.stores.http.failures import HttpFailure, UnsupportedResponse, broken
from dataplane.stores.http.headers import MAX_HEAD_BYTES, parse_head

__all__ = ["HttpResponse"]

_MAX_DIGITS = 18


class HttpResponse:
    """A response whose body is still to be received.

    Args:
        channel: channel of the response; closed with it, unless it is kept.
        head: status line and headers, with the empty line.
        rest: bytes that came behind the head.
        keep: function that takes the channel back for the next request.

    Attributes:
        status: HTTP status.
        headers: headers by name in lower case; of a repeated one the last.
        length: bytes of the body.

    Raises:
        HttpFailure: the server fails, without a body of known length.
        UnsupportedResponse: of another kind.
    """

    def __init__(
        self, channel: Channel, head: bytes, rest: bytes, keep: Callable[[Channel], None]
    ) -> None:
        self._channel: Channel | None = channel
        self._keep = keep
        self._pid = os.getpid()
        self._rest = memoryview(rest)
        self.status, self.headers, self._is_last = parse_head(head)
        length = self.headers.get("content-length", "")
        if "transfer-encoding" in self.headers or not _is_number(length):
            if self.status >= 500 or self.status == 429:  # with any headers
                raise HttpFailure(Reply(self.status, "", ""), self.headers)
            raise UnsupportedResponse("a response without a length")
        self.length = int(length)
        self._left = self.length

    def read_into(self, memory: memoryview) -> int:
        """Fill `memory` with the next bytes, or with all that is left.

        Returns:
            The number of bytes.

        Raises:
            HttpFailure: the connection broke, or nothing came for too long.
        """
        if self._pid != os.getpid():
            raise broken()
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

    def text(self, most: int = MAX_HEAD_BYTES) -> str:
        """Return the beginning of the body, as text."""
        content = bytearray(min(most, self._left))
        self.read_into(memoryview(content))
        return content.decode("utf-8", "replace")

    def close(self) -> None:
        """Give up the rest of the body. Idempotent."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _finish(self) -> None:
        """Let the connection be used again, unless either side has said more than it should."""
        if self._rest or self._is_last:
            self.close()
            return
        channel, self._channel = self._channel, None
        if channel is not None:
            self._keep(channel)

    def _receive(self, memory: memoryview) -> None:
        channel = self._channel
        if channel is None:
            raise ValueError("the response is closed")
        try:
            got = channel.receive(memory)
        except OSError as err:
            raise broken(err) from err
        self._left -= got
        if got < len(memory):
            raise broken()


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
