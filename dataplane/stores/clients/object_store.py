"""`RemoteStore`: remote object stores through obstore, `s3 gs az abfs http https`.

obstore's own retries are switched off for single requests. They would be uncounted, blind to our
deadline and to the store's wish for a pause, and their one advantage, resuming a broken body, saves
at most one block. So one call here is one request on the wire, and `retry.py` decides on the next.
Uploads in parts are the exception: repeating a whole object for one refused part would be worse,
so they go through a second client whose retries are on.

Every ranged read carries `If-Match` (not for weak etags, which never match by RFC 9110 §13.1.1, nor
for those outside ASCII, which servers spell in bytes of their choice) and also compares the
response's own etag, for servers that ignore the header. Servers without etags (plain HTTP) get one
made of modification time and size, compared the same way.

The client cannot address keys with empty, `.` or `..` segments or with control characters; listings
leave them out (`object_listing.py`). Nor does it take a response whose ETag is not ASCII: from the
first one on that object is asked for with requests of our own (`own_requests.py`). Which objects
these are is remembered up to a limit, and then learned anew.

A stream comes in pooled, page-aligned memory, which a cache can write to the disk as it is:
straight from the socket (`direct.py`), or copied from the client's own (`obstore_body.py`).

Describing an object has a time limit of its own, so it goes through a client of its own.

Thread-safe, as the client is. Not used across fork: `per_process.py` sees to that.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import obstore

from dataplane.buffers import shared_pool
from dataplane.errors import (
    BucketNotFound,
    DataplaneError,
    Denied,
    NotFound,
    ObjectChanged,
    StoreError,
)
from dataplane.stores.base import Buffer, Listing, ObjectInfo, StoreConfig
from dataplane.stores.clients.direct import DirectReads
from dataplane.stores.clients.object_failures import RemoteFailures
from dataplane.stores.clients.object_listing import CLIENT_ERRORS, RemoteListing, described
from dataplane.stores.clients.obstore_body import ClientBody
from dataplane.stores.clients.obstore_client import make_client, scheme_options
from dataplane.stores.clients.own_requests import OwnRequests
from dataplane.stores.failures import is_foreign_header
from dataplane.stores.http.failures import UnsupportedResponse
from dataplane.stores.http.ranged_response import Body, RangedResponse
from dataplane.stores.keys import (
    check_key,
    check_level,
    check_prefix,
    check_range,
    check_source,
    join_key,
)
from dataplane.stores.trust import refusal_in_text
from dataplane.stores.urls import HTTP_SCHEMES, Location, identity_of, s3_endpoint
from dataplane.stores.versions import same_version, tag_of
from dataplane.telemetry import logger

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult
    from obstore.store import ObjectStore

__all__ = ["RemoteStore"]

_PART_BYTES = 8 << 20
_MAX_PARTS = 9_000
"""S3 allows 10,000 parts of an upload; the size of a part grows so that we stay below."""
_PUT_CONCURRENCY = 4
_MAX_ODD_KEYS = 10_000
_UINT8 = np.dtype(np.uint8)


class RemoteStore:
    """A store over one bucket, container or HTTP host. See the module's text."""

    def __init__(self, location: Location, config: StoreConfig) -> None:
        self._location = location
        self._prefix = location.prefix
        self._identity = identity_of(location, config)
        server = (s3_endpoint(config) or "") if location.scheme == "s3" else ""
        self._failures = RemoteFailures(location, server, config)
        options = scheme_options(location, config)
        self._client = make_client(location, config, options)
        # The others are made when they are needed, which takes 8 ms: most stores need neither.
        self._make_client = functools.partial(make_client, location, config, options)
        self._upload_client: ObjectStore | None = None
        self._stream_client: ObjectStore | None = None
        self._metadata_client = make_client(
            location, config, options, timeout_s=config.metadata_timeout_s
        )
        self._direct = DirectReads.of(location, config, self._client)
        self._own = OwnRequests.of(location, config, options, self._client)
        self._odd_keys: set[str] = set()
        self._is_trusted = (server or location.url).startswith("http://")
        self._listing = RemoteListing(
            self._failures,
            self._metadata_client,
            self._own if location.scheme == "s3" else None,
        )

    @property
    def url(self) -> str:
        return self._location.url

    @property
    def identity(self) -> str:
        return self._identity

    def full_key(self, key: str) -> str:
        return join_key(self._prefix, key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        self._refuse_listing()
        yield from map(self._relative, self._listing.objects(join_key(self._prefix, prefix)))

    def list_level(self, prefix: str = "") -> Listing:
        check_level(prefix)
        self._refuse_listing()
        level = self._listing.level(join_key(self._prefix, prefix))
        cut = len(join_key(self._prefix, ""))
        return Listing(
            tuple(map(self._relative, level.objects)),
            tuple(path[cut:] for path in level.prefixes),
            tuple(key[cut:] for key in level.hidden),
        )

    def head(self, key: str) -> ObjectInfo:
        check_key(key)
        try:
            return self._relative(self._head(self.full_key(key)))
        except CLIENT_ERRORS as err:
            raise self._explained(self._failures.of(err, key, "describe"), key) from err

    def get_range(self, key: str, start: int, stop: int, *, if_match: str | None = None) -> Buffer:
        check_key(key)
        check_range(key, start, stop)
        if start == stop:
            return b""
        with self._reading(key, if_match):
            content, size = self._range(key, (start, stop), if_match)
        if len(content) != stop - start:
            raise self._wrong_length(key, (start, stop), len(content), size)
        return content

    def stream_range(
        self,
        key: str,
        start: int,
        stop: int,
        *,
        piece_bytes: int,
        if_match: str | None = None,
    ) -> Generator[Buffer, None, None]:
        check_key(key)
        check_range(key, start, stop)
        if start == stop:
            return
        with self._reading(key, if_match):
            body, size = self._begin(key, (start, stop), if_match)
            with contextlib.closing(body):
                for position in range(start, stop, piece_bytes):
                    length = min(piece_bytes, stop - position)
                    piece = shared_pool().array((length,), _UINT8).data
                    got = body.read_into(piece)
                    if got != length:
                        arrived = position + got - start
                        raise self._wrong_length(key, (start, stop), arrived, size)
                    yield piece
                    del piece

    def put(self, key: str, data: Buffer | os.PathLike[str]) -> ObjectInfo:
        full = self.full_key(check_key(key))
        source = check_source(data)
        size = source.stat().st_size if isinstance(source, Path) else source.nbytes
        part_bytes = max(_PART_BYTES, -(-size // _MAX_PARTS))
        in_parts = size > part_bytes
        if in_parts:
            self._refuse_certificate(key)
        try:
            result = obstore.put(
                self._uploading() if in_parts else self._client,
                full,
                source,
                use_multipart=in_parts,
                chunk_size=part_bytes,
                max_concurrency=_PUT_CONCURRENCY,
            )
        except CLIENT_ERRORS as err:
            raise self._failures.of(err, key, "write") from err
        # Some servers name no etag for an upload in parts (Ceph), or none at all (HTTP).
        etag = result["e_tag"]
        return ObjectInfo(key, size, etag) if etag else self.head(key)

    def delete(self, key: str) -> None:
        full = self.full_key(check_key(key))
        try:
            obstore.delete(self._client, full)
        except CLIENT_ERRORS as err:
            failure = self._failures.of(err, key, "delete")
            if isinstance(failure, NotFound) and not isinstance(failure, BucketNotFound):
                return
            raise failure from err

    def close(self) -> None:
        """Drop our own connections; the client's go with it, and that with this object."""
        direct = self._direct
        if direct is not None:
            direct.close()

    def _uploading(self) -> ObjectStore:
        """Return the client for uploads in parts; of two that threads make at once one is left."""
        client = self._upload_client
        if client is None:
            client = self._upload_client = self._make_client(retries=True)
        return client

    def _streaming(self) -> ObjectStore:
        """Return the client for streams that are not read past it; likewise."""
        client = self._stream_client
        if client is None:
            client = self._stream_client = self._make_client(streams=True)
        return client

    def _ask(
        self, client: ObjectStore, key: str, wanted: tuple[int, int], if_match: str | None
    ) -> GetResult:
        """Send one ranged request; its response is of the version asked for."""
        options: GetOptions = {"range": wanted}
        strong = _strong(if_match)
        if strong is not None:
            options["if_match"] = strong
        result = obstore.get(client, self.full_key(key), options=options)
        self._check_version(key, if_match, described(result.meta, self.url).etag)
        return result

    def _range(
        self, key: str, wanted: tuple[int, int], if_match: str | None
    ) -> tuple[memoryview, int]:
        """Return a range, or as much of it as there is, and the object's size."""
        full = self.full_key(key)
        if full not in self._odd_keys:
            try:
                result = self._ask(self._client, key, wanted, if_match)
                return memoryview(result.bytes()), result.meta["size"]
            except CLIENT_ERRORS as err:
                self._go_on_ourselves(full, err)
        response = self._ask_ourselves(key, wanted, if_match)
        with contextlib.closing(response.body) as body:
            content = memoryview(bytearray(wanted[1] - wanted[0]))
            return content[: body.read_into(content)], response.size_bytes

    def _ask_ourselves(
        self, key: str, wanted: tuple[int, int], if_match: str | None
    ) -> RangedResponse:
        """Send one ranged request past the client."""
        assert self._own is not None, "only where the client's refusal led here"
        response = self._own.get(self.full_key(key), wanted, _strong(if_match))
        return self._checked(response, key, if_match)

    def _checked(self, response: RangedResponse, key: str, if_match: str | None) -> RangedResponse:
        """Return a response that is of the version asked for; close any other."""
        try:
            tag = tag_of(response.etag, response.modified_s, response.size_bytes, self.url)
            self._check_version(key, if_match, tag)
        except BaseException:
            response.body.close()
            raise
        return response

    def _check_version(self, key: str, expected: str | None, actual: str) -> None:
        if expected is not None and not same_version(actual, expected):
            self._raise_changed(key, expected, actual)

    def _begin(self, key: str, wanted: tuple[int, int], if_match: str | None) -> tuple[Body, int]:
        """Ask for a stream, past the client where that can be; return it and the object's size."""
        full = self.full_key(key)
        direct = self._direct  # another thread may give it up
        response: RangedResponse | None = None
        odd: UnsupportedResponse | None = None
        if direct is not None:
            try:
                response = direct.get(full, wanted, _strong(if_match))
            except UnsupportedResponse as err:
                odd = err
        if response is not None:
            response = self._checked(response, key, if_match)
        elif full not in self._odd_keys:
            try:
                result = self._ask(self._streaming(), key, wanted, if_match)
            except CLIENT_ERRORS as err:
                self._go_on_ourselves(full, err)
            else:
                if odd is not None:
                    logger.debug("%s is read through the client library: %s", self.url, odd)
                    self._direct = None
                return ClientBody(result), result.meta["size"]
        if response is None:
            response = self._ask_ourselves(key, wanted, if_match)
        return response.body, response.size_bytes

    def _head(self, full: str) -> ObjectInfo:
        if full not in self._odd_keys:
            try:
                return described(obstore.head(self._metadata_client, full), self.url)
            except CLIENT_ERRORS as err:
                self._go_on_ourselves(full, err)
        assert self._own is not None, "only where the client's refusal led here"
        return self._own.head(full)

    def _go_on_ourselves(self, full: str, err: Exception) -> None:
        """Turn to requests of our own if the client refused a response for its headers."""
        if not (self._own and is_foreign_header(err)):
            raise err
        logger.debug("%s/%s is read past the client library: %s", self._identity, full, err)
        if len(self._odd_keys) >= _MAX_ODD_KEYS:
            self._odd_keys.clear()
        self._odd_keys.add(full)

    @contextlib.contextmanager
    def _reading(self, key: str, if_match: str | None) -> Iterator[None]:
        try:
            yield
        except CLIENT_ERRORS as err:
            failure = self._failures.of(err, key, "read")
            if isinstance(failure, ObjectChanged) and if_match is not None:
                self._raise_changed(key, if_match, self._etag_now(key), err)
            raise failure from err

    def _wrong_length(
        self, key: str, asked: tuple[int, int], arrived: int, size_bytes: int
    ) -> StoreError:
        return StoreError(
            f"cannot read {self.url}/{key}: bytes [{asked[0]}, {asked[1]}) asked for, "
            f"{arrived} received; the object has {size_bytes}"
        )

    def _relative(self, info: ObjectInfo) -> ObjectInfo:
        cut = len(join_key(self._prefix, ""))
        return ObjectInfo(info.key[cut:], info.size_bytes, info.etag, info.modified_s)

    def _explained(self, failure: DataplaneError, key: str) -> DataplaneError:
        """Ask again with a body: that of HEAD cannot say which of bucket, key or secret it is."""
        if not isinstance(failure, NotFound | Denied):
            return failure
        try:
            obstore.get(self._metadata_client, self.full_key(key), options={"range": (0, 1)})
        except CLIENT_ERRORS as err:
            second = self._failures.of(err, key, "read")
            return second if isinstance(second, NotFound | Denied) else failure
        return failure

    def _etag_now(self, key: str) -> str | None:
        try:
            return self._head(self.full_key(key)).etag
        except CLIENT_ERRORS:
            return None

    def _raise_changed(
        self, key: str, expected: str, actual: str | None, cause: Exception | None = None
    ) -> NoReturn:
        now = f"it is now {actual}" if actual else "its present one is not known"
        raise ObjectChanged(
            f"{self.url}/{key} was replaced: expected etag {expected}, {now}"
        ) from cause

    def _refuse_certificate(self, key: str) -> None:
        """Ask once: the client that uploads in parts also repeats requests that cannot succeed."""
        if self._is_trusted:
            return
        try:
            obstore.head(self._metadata_client, self.full_key(key))
        except CLIENT_ERRORS as err:
            if refusal_in_text(str(err)):
                raise self._failures.of(err, key, "write") from err
        self._is_trusted = True

    def _refuse_listing(self) -> None:
        if self._location.scheme in HTTP_SCHEMES:
            raise StoreError(
                f"cannot list {self.url}: plain HTTP servers have no listings",
                hint="name the objects, or use the store's own scheme, such as s3://",
            )


def _strong(tag: str | None) -> str | None:
    """Return a tag that may be sent as `If-Match`: no weak one, none of ours, and no odd one.

    Tags come from listings, which are others' data: one that is no plain text goes into no header.
    """
    if tag is None or not (tag.startswith('"') and tag.isascii() and tag.isprintable()):
        return None
    return tag
