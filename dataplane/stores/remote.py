"""Remote object stores through obstore: `s3 gs az abfs http https`.

obstore's own retries are switched off for single requests. They would be uncounted, blind to our
deadline and to the store's wish for a pause, and their one advantage, resuming a broken body, saves
at most one block. So one call here is one request on the wire, and `retry.py` decides what comes
next. Uploads in parts are the exception: repeating a whole object for one refused part would be
worse, so they go through a second client whose retries are on.

Every ranged read carries `If-Match` (not for weak etags, which never match by RFC 9110 §13.1.1) and
also compares the answer's own etag, for servers that ignore the header. Servers without etags
(plain HTTP) get one made of modification time and size, compared the same way.

Known limits of the client: keys with empty, `.` or `..` segments cannot be addressed; and a
zero-length "folder" object `name/`, as S3 consoles make them, is left out of listings where keys
below it follow, and listed as `name` where none do.

A stream comes in pooled, page-aligned memory, which a cache can write to the disk as it is:
straight from the socket (`direct.py`), or copied from the client's own (`client_body.py`).

Thread-safe, as the client is. Not used across fork: `perprocess.py` sees to that.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

import numpy as np
import obstore
from obstore.exceptions import BaseError

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
from dataplane.stores.client_body import ClientBody
from dataplane.stores.clients import make_client
from dataplane.stores.direct import DirectReads
from dataplane.stores.failures import from_obstore, from_reply
from dataplane.stores.keys import (
    check_key,
    check_level,
    check_prefix,
    check_range,
    check_source,
    join_key,
)
from dataplane.stores.plain_http import NotPlain, PlainFailure
from dataplane.stores.urls import HTTP_SCHEMES, Location, identity_of, s3_endpoint
from dataplane.stores.versions import same_version, tag_of
from dataplane.telemetry import logger

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ObjectMeta
    from obstore.store import ObjectStore

__all__ = ["RemoteStore"]

_LIST_PAGE = 1000
_PART_BYTES = 8 << 20
_MAX_PARTS = 9_000
"""S3 allows 10,000 parts of an upload; the size of a part grows so that we stay below."""
_PUT_CONCURRENCY = 4
_UINT8 = np.dtype(np.uint8)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CLIENT_ERRORS = (BaseError, OSError, ValueError)
"""What obstore raises: its own errors, FileNotFoundError, and ValueError for paths."""


class _Body(Protocol):
    """The bytes of an answer, in order."""

    def read_into(self, memory: memoryview) -> int: ...

    def close(self) -> None: ...


class RemoteStore:
    """A store over one bucket, container or HTTP host. See the module's text."""

    def __init__(self, location: Location, config: StoreConfig) -> None:
        self._location = location
        self._prefix = location.prefix
        self._identity = identity_of(location, config)
        self._server = (s3_endpoint(config) or "") if location.scheme == "s3" else ""
        self._client = make_client(location, config)
        self._upload_client = make_client(location, config, retries=True)
        self._stream_client = make_client(location, config, streams=True)
        self._direct = DirectReads.of(location, config, self._client)

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
        wanted = join_key(self._prefix, prefix)
        # The client lists whole levels: ask for the one that holds the prefix, and filter.
        level = wanted.rpartition("/")[0]
        waiting: ObjectInfo | None = None
        for meta in self._pages(level):
            path = meta["path"]
            if not path.startswith(wanted):
                continue
            # "name/" arrives as "name": a zero-length object that the next key lies below.
            if waiting and (waiting.size_bytes or not path.startswith(f"{waiting.key}/")):
                yield self._relative(waiting)
            waiting = _described(meta, self.url)
        if waiting:
            yield self._relative(waiting)

    def list_level(self, prefix: str = "") -> Listing:
        check_level(prefix)
        self._refuse_listing()
        below = join_key(self._prefix, prefix)
        try:
            level = obstore.list_with_delimiter(self._client, below.rstrip("/") or None)
        except _CLIENT_ERRORS as err:
            raise self._failure(err, prefix, "list") from err
        objects = [_described(meta, self.url) for meta in level["objects"]]
        found = [self._relative(info) for info in objects if info.key.startswith(below)]
        cut = len(join_key(self._prefix, ""))
        prefixes = sorted(f"{path[cut:]}/" for path in level["common_prefixes"])
        return Listing(tuple(sorted(found, key=lambda info: info.key)), tuple(prefixes))

    def head(self, key: str) -> ObjectInfo:
        full = self.full_key(check_key(key))
        try:
            return self._relative(_described(obstore.head(self._client, full), self.url))
        except _CLIENT_ERRORS as err:
            raise self._explained(self._failure(err, key, "describe"), key) from err

    def get_range(self, key: str, start: int, stop: int, *, if_match: str | None = None) -> Buffer:
        check_key(key)
        check_range(key, start, stop)
        if start == stop:
            return b""
        with self._reading(key, if_match):
            result = self._ask(self._client, key, (start, stop), if_match)
            content = memoryview(result.bytes())
        if len(content) != stop - start:
            raise self._wrong_length(key, (start, stop), len(content), result.meta["size"])
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
        try:
            result = obstore.put(
                self._upload_client if in_parts else self._client,
                full,
                source,
                use_multipart=in_parts,
                chunk_size=part_bytes,
                max_concurrency=_PUT_CONCURRENCY,
            )
        except _CLIENT_ERRORS as err:
            raise self._failure(err, key, "write") from err
        # Some servers name no etag for an upload in parts (Ceph), or none at all (HTTP).
        etag = result["e_tag"]
        return ObjectInfo(key, size, etag) if etag else self.head(key)

    def delete(self, key: str) -> None:
        full = self.full_key(check_key(key))
        try:
            obstore.delete(self._client, full)
        except _CLIENT_ERRORS as err:
            failure = self._failure(err, key, "delete")
            if isinstance(failure, NotFound) and not isinstance(failure, BucketNotFound):
                return
            raise failure from err

    def close(self) -> None:
        """Drop our own connections; the client's go with it, and that with this object."""
        direct = self._direct
        if direct is not None:
            direct.close()

    def _ask(
        self, client: ObjectStore, key: str, wanted: tuple[int, int], if_match: str | None
    ) -> GetResult:
        """Send one ranged request; its answer is of the version asked for."""
        options: GetOptions = {"range": wanted}
        strong = _strong(if_match)
        if strong is not None:
            options["if_match"] = strong
        result = obstore.get(client, self.full_key(key), options=options)
        self._check_version(key, if_match, _described(result.meta, self.url).etag)
        return result

    def _check_version(self, key: str, expected: str | None, actual: str) -> None:
        if expected is not None and not same_version(actual, expected):
            self._raise_changed(key, expected, actual)

    def _begin(self, key: str, wanted: tuple[int, int], if_match: str | None) -> tuple[_Body, int]:
        """Ask for a stream, past the client where that can be; return it and the object's size."""
        direct = self._direct  # another thread may give it up
        odd: NotPlain | None = None
        if direct is not None:
            try:
                answer = direct.get(self.full_key(key), wanted, _strong(if_match))
            except NotPlain as err:
                answer, odd = None, err
            if answer is not None:
                try:
                    tag = tag_of(answer.etag, answer.modified_s, answer.size_bytes, self.url)
                    self._check_version(key, if_match, tag)
                except BaseException:
                    answer.body.close()
                    raise
                return answer.body, answer.size_bytes
        result = self._ask(self._stream_client, key, wanted, if_match)
        if odd is not None:
            logger.debug("%s is read through the client library: %s", self.url, odd)
            self._direct = None
        return ClientBody(result), result.meta["size"]

    @contextlib.contextmanager
    def _reading(self, key: str, if_match: str | None) -> Iterator[None]:
        try:
            yield
        except _CLIENT_ERRORS as err:
            failure = self._failure(err, key, "read")
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

    def _pages(self, level: str) -> Iterator[ObjectMeta]:
        try:
            pages = iter(obstore.list(self._client, level or None, chunk_size=_LIST_PAGE))
            page: Sequence[ObjectMeta]
            for page in pages:
                yield from page
        except _CLIENT_ERRORS as err:
            raise self._failure(err, "", "list") from err

    def _relative(self, info: ObjectInfo) -> ObjectInfo:
        cut = len(join_key(self._prefix, ""))
        return ObjectInfo(info.key[cut:], info.size_bytes, info.etag, info.modified_s)

    def _failure(self, err: Exception, key: str, action: str) -> DataplaneError:
        bucket = f"{self._location.scheme}://{self._location.bucket}"
        where, server = f"{self.url}/{key}".rstrip("/"), self._server
        if isinstance(err, PlainFailure):
            return from_reply(err.reply, where, bucket=bucket, action=action, server=server)
        return from_obstore(err, where, bucket=bucket, action=action, server=server)

    def _explained(self, failure: DataplaneError, key: str) -> DataplaneError:
        """Ask again with a body: HEAD's answer cannot say which of bucket, key or secret it is."""
        if not isinstance(failure, NotFound | Denied):
            return failure
        try:
            obstore.get(self._client, self.full_key(key), options={"range": (0, 1)})
        except _CLIENT_ERRORS as err:
            second = self._failure(err, key, "read")
            return second if isinstance(second, NotFound | Denied) else failure
        return failure

    def _etag_now(self, key: str) -> str | None:
        try:
            return _described(obstore.head(self._client, self.full_key(key)), self.url).etag
        except _CLIENT_ERRORS:
            return None

    def _raise_changed(
        self, key: str, expected: str, actual: str | None, cause: Exception | None = None
    ) -> NoReturn:
        now = f"it is now {actual}" if actual else "its present one is not known"
        raise ObjectChanged(
            f"{self.url}/{key} was replaced: expected etag {expected}, {now}"
        ) from cause

    def _refuse_listing(self) -> None:
        if self._location.scheme in HTTP_SCHEMES:
            raise StoreError(
                f"cannot list {self.url}: plain HTTP servers have no listings",
                hint="name the objects, or use the store's own scheme, such as s3://",
            )


def _strong(tag: str | None) -> str | None:
    """Return a tag that may be sent as `If-Match`: no weak one, and none of ours."""
    return tag if tag is not None and tag.startswith('"') else None


def _described(meta: ObjectMeta, where: str) -> ObjectInfo:
    modified = meta["last_modified"]
    modified_s = modified.timestamp() if modified > _EPOCH else None
    tag = tag_of(meta["e_tag"], modified_s, meta["size"], where)
    return ObjectInfo(meta["path"], meta["size"], tag, modified_s)
