"""Own requests: those that the client library cannot make, or whose responses it does not take.

It refuses a page of a listing for one key that it has no path for, and a response whose ETag is not
ASCII. Such pages and objects are asked for here, one connection a request, with TLS and proxies:
slower than the library, and only where it fails. The library still signs, as in `direct.py`, so
that keys and tokens come from the same chains. Redirections are followed for plain HTTP
(`redirects.py`); one of S3 says that the bucket is elsewhere, which a signed URL cannot follow.

It signs URLs of keys only; a listing is a request to the bucket, with a query. So it is given the
bucket's name with that query, and signs the whole; the slash that it puts behind it becomes part of
the value of `x-id`, a parameter without a meaning.

Thread-safe: its one state is its arguments and the certificates to trust.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote, urlencode

import obstore

from dataplane.stores.base import ObjectInfo, StoreConfig
from dataplane.stores.clients.credentials import DEFAULT_REGION
from dataplane.stores.clients.obstore_client import make_client
from dataplane.stores.failures import Reply, error_code
from dataplane.stores.http.failures import HttpFailure
from dataplane.stores.http.opener import make_opener
from dataplane.stores.http.ranged_response import RangedResponse, ranged_response
from dataplane.stores.http.redirects import MAX_REDIRECTS, REDIRECTS, redirected
from dataplane.stores.trust import refusal_of, tls_context
from dataplane.stores.urls import HTTP_SCHEMES, Location
from dataplane.stores.versions import header_text, modified_of, tag_of

if TYPE_CHECKING:
    from obstore.store import ObjectStore, S3Store

__all__ = ["OwnRequests", "OwnResponse"]

_EXPIRES = timedelta(minutes=15)
_MAX_PAGE_BYTES = 64 << 20
_MAX_ERROR_BYTES = 64 << 10
_PIECE_BYTES = 64 << 10


class OwnResponse:
    """A response whose body is still to be received. Used by one thread; close it.

    Attributes:
        status: HTTP status.
        headers: headers by name in lower case; characters stand for bytes.
        length: bytes of the body, if the server says.
    """

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response
        self.status = response.status
        self.length: int | None = response.length
        self._left = response.length  # the response's own count is not kept by every method
        self.headers = {name.lower(): value for name, value in response.getheaders()}

    def read_into(self, memory: memoryview) -> int:
        """Fill `memory` with the next bytes; return how many came before the end.

        Raises:
            HttpFailure: the connection broke, or nothing came for too long.
        """
        filled = 0
        with _reading(self.status):
            while filled < len(memory):
                count = self._response.readinto(memory[filled:])
                self._count(count)
                if not count:
                    break
                filled += count
        return filled

    def content(self, most: int, until_s: float) -> bytes:
        """Return the whole body.

        Raises:
            HttpFailure: it is longer than `most`, takes longer than the monotonic time `until_s`,
                or breaks off.
        """
        pieces, left = [], most
        with _reading(self.status):
            while True:
                piece = self._response.read1(_PIECE_BYTES)
                self._count(len(piece))
                if not piece:
                    break
                left -= len(piece)
                if left < 0:
                    raise HttpFailure(Reply(self.status, "", f"more than {most} bytes"))
                if time.monotonic() > until_s:
                    raise HttpFailure(Reply(None, "", "", "timeout"))
                pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Give up the rest of the body. Idempotent."""
        self._response.close()

    def _count(self, received: int) -> None:
        """Count bytes of the body, or none: the end, which the response does not check itself.

        The end of a body in chunks it does check.
        """
        if self._left is None:
            return
        if not received and self._left:
            raise HttpFailure(Reply(None, "", "", "broken"))
        self._left -= received


class OwnRequests:
    """Requests of our own to one bucket or HTTP host. See the module's text.

    Args:
        location: location that the URL names; its prefix is not used.
        config: time limits, endpoint, certificates.
        options: options of the library's clients.
        client: client of the library, which signs.
    """

    def __init__(
        self,
        location: Location,
        config: StoreConfig,
        options: Mapping[str, Any],
        client: ObjectStore,
    ) -> None:
        self._location = location
        self._config = config
        self._options = options
        self._client = client
        self._opener: urllib.request.OpenerDirector | None = None

    @classmethod
    def of(
        cls,
        location: Location,
        config: StoreConfig,
        options: Mapping[str, Any],
        client: ObjectStore,
    ) -> OwnRequests | None:
        """Return the own requests of a location, or None where none can be made."""
        if location.scheme == "s3" or location.scheme in HTTP_SCHEMES:
            return cls(location, config, options, client)
        return None

    def list_page(self, query: Mapping[str, str]) -> bytes:
        """Ask for a page of an S3 bucket's listing and return the document.

        Args:
            query: the parameters of ListObjectsV2, as text.

        Raises:
            HttpFailure: no response, or one that says no.
            BaseError: the client cannot sign.
        """
        timeout_s = self._config.metadata_timeout_s
        until_s = time.monotonic() + timeout_s
        url = self._signed_listing(urlencode(query, quote_via=quote, safe=""))
        with contextlib.closing(self._send("GET", url, {}, timeout_s)) as response:
            if response.status != 200:
                self._refuse(response)
            return response.content(_MAX_PAGE_BYTES, until_s)

    def head(self, key: str) -> ObjectInfo:
        """Describe the object with this full key.

        Raises:
            HttpFailure: no response, or one that says no or lacks a length.
            BaseError: the client cannot sign.
        """
        url = self._object_url("HEAD", key)
        timeout_s = self._config.metadata_timeout_s
        with contextlib.closing(self._send("HEAD", url, {}, timeout_s)) as response:
            length = response.headers.get("content-length", "")
            if response.status != 200:
                self._refuse(response)
            if not (length.isascii() and length.isdigit()):
                raise HttpFailure(Reply(None, "", "the server does not say the object's size"))
            etag = header_text(response.headers.get("etag", "")) or None
            modified_s = modified_of(response.headers.get("last-modified", ""))
        size_bytes = int(length)
        tag = tag_of(etag, modified_s, size_bytes, self._location.url)
        return ObjectInfo(key, size_bytes, tag, modified_s)

    def get(self, key: str, wanted: tuple[int, int], if_match: str | None) -> RangedResponse:
        """Ask for bytes `[wanted[0], wanted[1])` of the object with this full key.

        Args:
            key: full key.
            wanted: range of bytes.
            if_match: a tag of printable ASCII, or None.

        Raises:
            HttpFailure: no response, or not that range.
            BaseError: the client cannot sign.
        """
        headers = {"Range": f"bytes={wanted[0]}-{wanted[1] - 1}"}
        if if_match is not None:
            headers["If-Match"] = if_match
        url = self._object_url("GET", key)
        response = self._send("GET", url, headers, self._config.timeout_s)
        try:
            if response.status != 206:
                self._refuse(response)
            return ranged_response(response, response.headers, response.length, wanted)
        except ValueError as err:
            response.close()
            raise HttpFailure(Reply(None, "", f"the server sent {err}")) from err
        except BaseException:
            response.close()
            raise

    def _object_url(self, method: Any, key: str) -> str:
        location = self._location
        if location.scheme in HTTP_SCHEMES:
            return f"{location.scheme}://{location.bucket}/{quote(key)}"
        if self._is_anonymous():
            return f"{self._bucket_url()}/{quote(key)}"
        s3: S3Store = self._client  # type: ignore[assignment]
        return obstore.sign(s3, method, key, _EXPIRES)

    def _signed_listing(self, query: str) -> str:
        if os.environ.get("AWS_REQUEST_PAYER"):
            query += "&x-amz-request-payer=requester"
        if self._is_anonymous():
            return f"{self._bucket_url()}?{query}"
        bucket = f"{self._location.bucket}?{query}&x-id=ListObjectsV2"
        location = dataclasses.replace(self._location, bucket=bucket)
        # The query follows the bucket's name, which must then be at the end of the URL.
        options = {**self._options, "virtual_hosted_style_request": False}
        client: S3Store = make_client(location, self._config, options)  # type: ignore[assignment]
        return obstore.sign(client, "GET", "", _EXPIRES)

    def _bucket_url(self) -> str:
        region = self._options.get("region", DEFAULT_REGION)
        endpoint = self._options.get("endpoint", f"https://s3.{region}.amazonaws.com")
        return f"{endpoint}/{self._location.bucket}"

    def _is_anonymous(self) -> bool:
        skips = os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true", "yes", "on")
        return self._config.anonymous or skips

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], timeout_s: float
    ) -> OwnResponse:
        for _ in range(MAX_REDIRECTS + 1):
            response = self._send_once(method, url, headers, timeout_s)
            is_followed = response.status in REDIRECTS and self._location.scheme in HTTP_SCHEMES
            if not is_followed:
                return response
            response.close()
            try:
                url = redirected(url, response.headers.get("location", ""))
            except ValueError as err:
                raise HttpFailure(Reply(None, "", f"the server sent {err}")) from err
        raise HttpFailure(Reply(None, "", f"the server sent over {MAX_REDIRECTS} redirections"))

    def _send_once(
        self, method: str, url: str, headers: Mapping[str, str], timeout_s: float
    ) -> OwnResponse:
        request = urllib.request.Request(  # noqa: S310 - the scheme is http or https
            url, headers={"User-Agent": "dataplane", **headers}, method=method
        )
        opener = self._opener
        if opener is None:
            opener = self._opener = make_opener(tls_context(self._config))
        try:
            response = opener.open(request, timeout=timeout_s)
        except urllib.error.URLError as err:
            raise _not_sent(err.reason if isinstance(err.reason, OSError) else err) from err
        except (OSError, http.client.HTTPException) as err:
            raise _not_sent(err) from err
        return OwnResponse(response)

    def _refuse(self, response: OwnResponse) -> NoReturn:
        status = response.status
        until_s = time.monotonic() + self._config.metadata_timeout_s
        text = ""
        if status >= 400:
            with contextlib.suppress(HttpFailure):
                text = response.content(_MAX_ERROR_BYTES, until_s).decode("utf-8", "replace")
        raise HttpFailure(Reply(status, error_code(text), f"status {status}"), response.headers)


def _not_sent(err: BaseException) -> HttpFailure:
    refusal = refusal_of(err)
    if refusal:
        return HttpFailure(Reply(None, "", refusal, "certificate"))
    if isinstance(err, TimeoutError):
        return HttpFailure(Reply(None, "", "", "timeout"))
    is_broken = isinstance(err, ConnectionResetError | BrokenPipeError | http.client.HTTPException)
    return HttpFailure(Reply(None, "", "", "broken" if is_broken else "connect"))


@contextlib.contextmanager
def _reading(status: int) -> Iterator[None]:
    try:
        yield
    except HttpFailure:
        raise
    except TimeoutError as err:
        raise HttpFailure(Reply(None, "", "", "timeout")) from err
    except (OSError, http.client.HTTPException, ValueError) as err:
        raise HttpFailure(Reply(None, "", f"status {status}", "broken")) from err
