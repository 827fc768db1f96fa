"""Listings of a remote bucket: by the client library, and by ourselves where it gives up.

The library turns keys into paths, and has none for a key with an empty, `.` or `..` part or with a
control character. One such key makes it refuse the page that holds it, and with it the bucket. From
the first such page on, S3 is listed with requests of our own (`own_requests.py`), and such a key is
left out: none of the library's calls could address it. For Google and Azure the refusal stands.

A zero-length object `name/`, as S3 consoles make them for folders, is left out of listings where
keys below it follow, and listed as `name` where none do, in both cases.

Thread-safe: its one state is whether the library still lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError

from dataplane.errors import DataplaneError
from dataplane.stores.base import Listing, ObjectInfo
from dataplane.stores.clients.object_failures import RemoteFailures
from dataplane.stores.clients.own_requests import OwnRequests
from dataplane.stores.clients.s3_listing import ListedPage, listed_pages
from dataplane.stores.failures import is_foreign_key
from dataplane.stores.http.failures import HttpFailure
from dataplane.stores.keys import LeftOut, join_key, why_foreign
from dataplane.stores.versions import tag_of
from dataplane.telemetry import logger

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

__all__ = ["CLIENT_ERRORS", "RemoteListing", "described"]

CLIENT_ERRORS = (BaseError, OSError, ValueError)
"""Errors of obstore: its own, FileNotFoundError, and ValueError for paths."""
_PAGE_KEYS = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def described(meta: ObjectMeta, where: str) -> ObjectInfo:
    """Return the client's description of an object, with its full key."""
    modified = meta["last_modified"]
    modified_s = modified.timestamp() if modified > _EPOCH else None
    tag = tag_of(meta["e_tag"], modified_s, meta["size"], where)
    return ObjectInfo(meta["path"], meta["size"], tag, modified_s)


class RemoteListing:
    """Listings of one bucket or container; keys and prefixes are full ones.

    Args:
        failures: translator of failures.
        client: the library's client.
        own: requests of our own, if they can be made.
    """

    def __init__(
        self,
        failures: RemoteFailures,
        client: ObjectStore,
        own: OwnRequests | None,
    ) -> None:
        self._failures = failures
        self._url = failures.location.url
        self._client = client
        self._own = own
        self._by_ourselves = False
        self._left_out = LeftOut(self._url)

    def objects(self, wanted: str) -> Iterator[ObjectInfo]:
        """Yield all objects whose key begins with `wanted`, in key order.

        Raises:
            DataplaneError: the store failed.
        """
        waiting: ObjectInfo | None = None
        for info in self._all(wanted):
            # "name/" arrives as "name": a zero-length object that the next key lies below.
            if waiting and (waiting.size_bytes or not info.key.startswith(f"{waiting.key}/")):
                yield waiting
            waiting = info
        if waiting:
            yield waiting

    def level(self, below: str) -> Listing:
        """Return one directory level; `below` is empty or ends in `/`.

        Raises:
            DataplaneError: the store failed.
        """
        refused: Exception | None = None
        if not self._by_ourselves:
            try:
                level = obstore.list_with_delimiter(self._client, below.rstrip("/") or None)
            except CLIENT_ERRORS as err:
                refused = self._refused(err, below)
            else:
                found = (described(meta, self._url) for meta in level["objects"])
                return _level(
                    [info for info in found if info.key.startswith(below)],
                    [f"{path}/" for path in level["common_prefixes"]],
                    [],
                )
        objects: list[ObjectInfo] = []
        prefixes: list[str] = []
        hidden: list[str] = []
        for page in self._own_pages(below, refused, delimiter="/"):
            for info in page.objects:
                if info.key == below and not info.size_bytes:
                    continue  # the mark of the level itself
                if why_foreign(info.key) is None:
                    objects.append(info)
                else:
                    hidden.append(info.key)
            for prefix in page.prefixes:
                (prefixes if why_foreign(prefix[:-1]) is None else hidden).append(prefix)
        return _level(objects, prefixes, hidden)

    def _all(self, wanted: str) -> Iterator[ObjectInfo]:
        last, refused = "", None
        if not self._by_ourselves:
            try:
                for meta in self._pages(wanted):
                    last = meta["path"]
                    yield described(meta, self._url)
                return
            except CLIENT_ERRORS as err:
                refused = self._refused(err, wanted)
        for page in self._own_pages(wanted, refused, start_after=last):
            for info in page.objects:
                key = info.key if info.size_bytes else info.key.removesuffix("/")
                reason = why_foreign(key)
                if reason is not None:
                    self._left_out.tell(key, reason)
                elif key != last:
                    yield ObjectInfo(key, info.size_bytes, info.etag, info.modified_s)

    def _pages(self, wanted: str) -> Iterator[ObjectMeta]:
        # The client lists whole levels: ask for the one that holds the prefix, and filter.
        level = wanted.rpartition("/")[0]
        page: Sequence[ObjectMeta]
        for page in iter(obstore.list(self._client, level or None, chunk_size=_PAGE_KEYS)):
            yield from (meta for meta in page if meta["path"].startswith(wanted))

    def _own_pages(
        self, prefix: str, refused: Exception | None, *, delimiter: str = "", start_after: str = ""
    ) -> Iterator[ListedPage]:
        """Yield pages of requests of our own, because the client refused them, now or before."""
        own = self._own
        assert own is not None, "the client's refusal stands where we cannot ask"
        try:
            for page in listed_pages(
                own.list_page, prefix, self._url, delimiter=delimiter, start_after=start_after
            ):
                if not self._by_ourselves:
                    logger.debug("%s is listed past the client library: %s", self._url, refused)
                    self._by_ourselves = True
                yield page
        except (HttpFailure, *CLIENT_ERRORS) as err:
            failure = self._failure(err, prefix)
            if refused is not None and not failure.retryable:
                # Not every server takes a signed URL of a listing; then the refusal stands.
                raise self._failure(refused, prefix) from err
            raise failure from err

    def _failure(self, err: Exception, prefix: str) -> DataplaneError:
        below = prefix[len(join_key(self._failures.location.prefix, "")) :]
        return self._failures.of(err, below, "list")

    def _refused(self, err: Exception, prefix: str) -> Exception:
        """Return the client's refusal of a key; raise any other error."""
        if self._own is None or not is_foreign_key(err):
            raise self._failure(err, prefix) from err
        return err


def _level(
    objects: Sequence[ObjectInfo], prefixes: Sequence[str], hidden: Sequence[str]
) -> Listing:
    return Listing(
        tuple(sorted(objects, key=lambda info: info.key)), tuple(sorted(prefixes)), tuple(hidden)
    )
