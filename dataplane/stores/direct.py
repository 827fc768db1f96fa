"""Ranged reads that go past the client library: plain HTTP, straight into our memory.

A store of one's own, on a fast network without TLS, sends as fast as a processor can copy, and
there each copy counts. Requests are signed by the client library as URLs (SigV4 in the query), so
that keys and tokens come from the same chains; `plain_http.py` sends them. TLS, proxies and what
the library alone knows (requester pays, keys of the customer) stay with it, and so does everything
from then on when a server gives an answer that we do not understand.

A signed URL works for whoever has it until it expires, so it is made for one request and neither
kept nor shown.

Thread-safe, as its parts are.
"""

from __future__ import annotations

import contextlib
import os
import re
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, quote, urlsplit

import obstore

from dataplane.stores.base import StoreConfig
from dataplane.stores.clients import CONNECT_TIMEOUT_S
from dataplane.stores.failures import Reply, error_code
from dataplane.stores.plain_http import NotPlain, PlainAnswer, PlainFailure, PlainHttp
from dataplane.stores.urls import Location, s3_endpoint

if TYPE_CHECKING:
    from obstore.store import S3Store

__all__ = ["DirectAnswer", "DirectReads"]

_EXPIRES = timedelta(minutes=15)
"""As far as the clocks of client and server may be apart when a request itself is signed."""
_CLIENT_ALONE = ("AWS_PROXY_URL", "AWS_REQUEST_PAYER", "AWS_SSE_CUSTOMER_KEY_BASE64")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True, slots=True)
class DirectAnswer:
    """A range that is on its way.

    Attributes:
        body: its bytes; fewer than asked for where the object ends. Close it.
        size_bytes: the object's length.
        etag: its version, if the server names one.
        modified_s: when it was written, in seconds since the epoch, if the server says.
    """

    body: PlainAnswer
    size_bytes: int
    etag: str | None
    modified_s: float | None


class DirectReads:
    """Ranged GETs of one bucket or HTTP host.

    Args:
        server: where it is; scheme, host and port.
        target_of: makes path and query of a full key.
        config: time limits, connections.
    """

    def __init__(
        self, server: SplitResult, target_of: Callable[[str], str], config: StoreConfig
    ) -> None:
        self._target_of = target_of
        self._http = PlainHttp(
            server.hostname or "",
            server.port or 80,
            timeout_s=config.timeout_s,
            connect_timeout_s=min(config.timeout_s, CONNECT_TIMEOUT_S),
            max_idle=config.max_concurrency,
        )

    @classmethod
    def of(cls, location: Location, config: StoreConfig, client: object) -> DirectReads | None:
        """Return what reads a location directly, or None where only the client may do it."""
        if not config.direct:
            return None
        endpoint = s3_endpoint(config) if location.scheme == "s3" else location.url
        if endpoint is None or not endpoint.startswith("http://"):
            return None
        server = urlsplit(endpoint)
        if _is_proxied(server) or any(os.environ.get(name) for name in _CLIENT_ALONE):
            return None
        if location.scheme != "s3":
            return cls(server, lambda key: quote(f"/{key}"), config)
        if config.anonymous:
            below = f"{server.path.rstrip('/')}/{location.bucket}"
            return cls(server, lambda key: quote(f"{below}/{key}"), config)
        return cls(server, lambda key: _signed(client, key, server), config)

    def get(self, key: str, wanted: tuple[int, int], if_match: str | None) -> DirectAnswer:
        """Ask for bytes `[wanted[0], wanted[1])` of the object with this full key.

        Raises:
            PlainFailure: no answer, or one that says no.
            NotPlain: the client must do it.
            BaseError: the client cannot sign.
        """
        if any(part in ("", ".", "..") for part in key.split("/")):
            raise NotPlain("a key that the client explains")
        headers = {"Range": f"bytes={wanted[0]}-{wanted[1] - 1}", "Accept-Encoding": "identity"}
        if if_match is not None:
            headers["If-Match"] = if_match
        answer = self._http.get(self._target_of(key), headers)
        try:
            return _partial(answer, wanted)
        except BaseException:
            answer.close()
            raise

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def _partial(answer: PlainAnswer, wanted: tuple[int, int]) -> DirectAnswer:
    """Check that an answer is the range asked for, or as much of it as there is."""
    if answer.status != 206:
        code = error_code(answer.text())
        raise PlainFailure(Reply(answer.status, code, ""), answer.headers)
    headers = answer.headers
    given = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    if given is None or int(given[1]) != wanted[0]:
        raise NotPlain("another range than that asked for")
    stop = int(given[2]) + 1
    if stop > wanted[1] or stop - wanted[0] != answer.length:
        raise NotPlain("a body of another length than its range")
    modified_s = None
    with contextlib.suppress(ValueError):  # no date, or not a date
        modified_s = parsedate_to_datetime(headers.get("last-modified", "")).timestamp()
    return DirectAnswer(answer, int(given[3]), headers.get("etag"), modified_s)


def _signed(client: object, key: str, server: SplitResult) -> str:
    s3: S3Store = client  # type: ignore[assignment]
    url = urlsplit(obstore.sign(s3, "GET", key, _EXPIRES))
    if (url.scheme, url.netloc) != (server.scheme, server.netloc):
        raise NotPlain("the client signs for another server")
    return f"{url.path}?{url.query}"


def _is_proxied(server: SplitResult) -> bool:
    proxies = urllib.request.getproxies()
    named = "http" in proxies or "all" in proxies
    return named and not urllib.request.proxy_bypass(server.hostname or "")
