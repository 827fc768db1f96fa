"""Failures of our own requests: a response of another kind, one that says no, or none."""

from __future__ import annotations

from collections.abc import Mapping

from dataplane.stores.failures import Reply

__all__ = ["HttpFailure", "UnsupportedResponse", "broken"]


class UnsupportedResponse(Exception):
    """A response, or a server, that this client does not understand; another one may."""


class HttpFailure(OSError):
    """A response that says no, or a half of one, or none.

    Attributes:
        reply: description of the response.
        headers: headers of the response, by name in lower case.
    """

    def __init__(self, reply: Reply, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reply.text or reply.connection or f"status {reply.status}")
        self.reply = reply
        self.headers = headers or {}


def broken(err: Exception | None = None) -> HttpFailure:
    """Return the failure of a connection that broke, or was silent for too long."""
    kind = "timeout" if isinstance(err, TimeoutError) else "broken"
    return HttpFailure(Reply(None, "", "", kind))
