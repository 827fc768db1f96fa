"""Direct reads: ranged GETs past the client library, over HTTP and HTTPS, into our own memory.

A store on a fast network sends as fast as a processor can copy and decrypt, and there each copy
counts. Requests are signed by the client library as URLs (SigV4 in the query), so that keys and
tokens come from the same chains; `http/connections.py` sends them. Proxies and features of the
library alone (requester pays, keys of the customer) stay with it, and so does everything from then
on where it gets bytes and we only a response, or a certificate, that we do not understand.

A signed URL works for any bearer until it expires, so it is made for one request and neither kept
nor shown. Some servers take none; so until the first one was good, a refusal may be meant for the
signed URL, and the library asks again.

Thread-safe, as its parts are.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import SplitResult, quote, urlsplit

import obstore

from dataplane.stores.base import StoreConfig
from dataplane.stores.clients.obstore_client import CONNECT_TIMEOUT_S
from dataplane.stores.failures import Reply, error_code
from dataplane.stores.http.channels import PORTS, HttpServer
from dataplane.stores.http.connections import HttpConnections
from dataplane.stores.http.failures import HttpFailure, UnsupportedResponse
from dataplane.stores.http.ranged_response import RangedResponse, ranged_response
from dataplane.stores.http.response import HttpResponse
from dataplane.stores.trust import root_certificates
from dataplane.stores.urls import Location, s3_endpoint

if TYPE_CHECKING:
    from obstore.store import S3Store

__all__ = ["DirectReads"]

_EXPIRES = timedelta(minutes=15)
"""Largest difference of the client's and the server's clock that S3 allows a signed request."""
_CLIENT_ALONE = (
    "AWS_PROXY_URL",
    "AWS_REQUEST_PAYER",
    "AWS_SKIP_SIGNATURE",
    "AWS_SSE_CUSTOMER_KEY_BASE64",
)
_PROXIES = {
    "http": ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"),
    "https": ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"),
}
_DISLIKES_THE_URL = frozenset({400, 401, 403, 405, 414, 501})


class DirectReads:
    """Ranged GETs of one bucket or HTTP host.

    Args:
        server: address of the server, and the certificates to trust.
        target_of: function from a full key to path and query.
        config: time limits, connections.
        is_signed: whether a refusal may be one of signed URLs.
    """

    def __init__(
        self,
        server: HttpServer,
        target_of: Callable[[str], str],
        config: StoreConfig,
        *,
        is_signed: bool = False,
    ) -> None:
        self._target_of = target_of
        self._is_doubtful = is_signed
        self._http = HttpConnections(
            server,
            timeout_s=config.timeout_s,
            connect_timeout_s=min(config.timeout_s, CONNECT_TIMEOUT_S),
            max_idle=config.max_concurrency,
        )

    @classmethod
    def of(cls, location: Location, config: StoreConfig, client: object) -> DirectReads | None:
        """Return the direct reads of a location, or None where only the client may read it."""
        if not config.direct:
            return None
        endpoint = s3_endpoint(config) if location.scheme == "s3" else location.url
        url = urlsplit(endpoint or "")
        host = url.hostname or ""
        if url.scheme not in _PROXIES or not host.isascii() or _is_proxied(url.scheme, host):
            return None
        if any(map(os.environ.get, _CLIENT_ALONE)):
            return None
        roots = root_certificates(config) if url.scheme == "https" else None
        server = HttpServer(url.scheme, host, _port(url), roots or b"")
        if location.scheme != "s3":
            return cls(server, lambda key: quote(f"/{key}"), config)
        if config.anonymous:
            root = url.path.rstrip("/")  # quoted as its user wants it
            return cls(server, lambda key: root + quote(f"/{location.bucket}/{key}"), config)
        return cls(server, lambda key: _signed(client, key, server), config, is_signed=True)

    def get(self, key: str, wanted: tuple[int, int], if_match: str | None) -> RangedResponse | None:
        """Ask for bytes `[wanted[0], wanted[1])` of the object with this full key.

        Args:
            key: full key.
            wanted: range of bytes.
            if_match: a tag of printable ASCII, or None.

        Returns:
            The beginning of the response, or None where only the client can ask.

        Raises:
            HttpFailure: no response, or one that says no.
            UnsupportedResponse: a response, or a certificate, that the client may understand.
            BaseError: the client cannot sign.
        """
        if any(part in ("", ".", "..") for part in key.split("/")):
            return None
        headers = {"Range": f"bytes={wanted[0]}-{wanted[1] - 1}", "Accept-Encoding": "identity"}
        if if_match is not None:
            headers["If-Match"] = if_match
        response = self._http.get(self._target_of(key), headers)
        try:
            if response.status != 206:
                self._refuse(response)
            partial = ranged_response(response, response.headers, response.length, wanted)
        except ValueError as err:
            response.close()
            raise UnsupportedResponse(str(err)) from err
        except BaseException:
            response.close()
            raise
        self._is_doubtful = False
        return partial

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _refuse(self, response: HttpResponse) -> NoReturn:
        status = response.status
        if status == 200:
            raise HttpFailure(Reply(status, "", ""), response.headers)
        if status < 400 or status == 414 or (self._is_doubtful and status in _DISLIKES_THE_URL):
            raise UnsupportedResponse(f"status {status}")
        raise HttpFailure(Reply(status, error_code(response.text()), ""), response.headers)


def _signed(client: object, key: str, server: HttpServer) -> str:
    s3: S3Store = client  # type: ignore[assignment]
    url = urlsplit(obstore.sign(s3, "GET", key, _EXPIRES))
    if (url.scheme, url.hostname, _port(url)) != (server.scheme, server.host, server.port):
        raise UnsupportedResponse("the client signs for another server")
    return f"{url.path}?{url.query}"


def _port(url: SplitResult) -> int:
    return url.port or PORTS[url.scheme]


def _is_proxied(scheme: str, host: str) -> bool:
    """Whether there is a proxy that the client might use; there are many readings of exceptions."""
    if not any(map(os.environ.get, _PROXIES[scheme])):
        return False
    exceptions = {os.environ.get(name) for name in ("no_proxy", "NO_PROXY")} - {None, ""}
    if len(exceptions) != 1:
        return True
    names = [name.strip().lower() for name in str(exceptions.pop()).split(",")]
    return not any(name and (host == name or host.endswith(f".{name}")) for name in names)
