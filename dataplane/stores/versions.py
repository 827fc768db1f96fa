"""Tags for objects whose store names no version: neither an etag nor a time of change.

Equal tags must mean equal bytes, and of such an object nothing is known but its size. So each look
at it gets a tag of its own: bytes cached under it are never taken for a later look's. Within one
look only the size can be compared, which the user is told once. Thread-safe.

An etag outside ASCII is in bytes of the server's choice, of which a listing shows only what XML
can hold. So a listed tag that is not ASCII is none to read by: `as_answered` asks for the one that
responses carry.
"""

from __future__ import annotations

import uuid
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from dataplane.telemetry import logger

if TYPE_CHECKING:
    from dataplane.stores.base import ObjectInfo, Store

__all__ = ["as_answered", "header_text", "modified_of", "new_tag", "same_version", "tag_of"]

_PREFIX = "unversioned-"
_told: set[str] = set()


def modified_of(date: str) -> float | None:
    """Return the seconds since the epoch of an HTTP date; None for none, or not a real one."""
    try:
        when = parsedate_to_datetime(date)
        # "-0000" is a time of an unknown zone; HTTP knows only one.
        seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
    return seconds if seconds > 0 else None


def header_text(value: str) -> str:
    """Return the text of a header whose characters stand for bytes.

    HTTP leaves it to the server what bytes outside ASCII mean; listings have the same tag in UTF-8.
    """
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


def as_answered(store: Store, listed: ObjectInfo) -> ObjectInfo:
    """Return a listing's description of an object with the tag that responses to reads carry.

    Makes a request where the listed tag is not ASCII, and none otherwise. An object replaced since
    the listing is described as it is now.

    Raises:
        NotFound: it is gone.
        StoreError: the store failed.
    """
    return listed if listed.etag.isascii() else store.head(listed.key)


def tag_of(etag: str | None, modified_s: float | None, size_bytes: int, where: str) -> str:
    """Return the version tag of an object: its etag, else one of its time and size.

    Args:
        etag: etag of the store, if there is one.
        modified_s: time of its last write in seconds since the epoch.
        size_bytes: length of the object.
        where: the store's URL.
    """
    if etag:
        return etag
    if modified_s is not None:
        return f"modified-{modified_s:.0f}-size-{size_bytes}"
    return new_tag(where, size_bytes)


def new_tag(where: str, size_bytes: int) -> str:
    """Make a tag for one look at an object of the store at `where`."""
    if where not in _told:
        _told.add(where)
        logger.warning(
            "%s names no versions (no ETag, no Last-Modified): a replaced object of the same size "
            "goes unnoticed while it is read, and nothing is reused from the cache later",
            where,
        )
    return f"{_PREFIX}{uuid.uuid4().hex}-size-{size_bytes}"


def same_version(tag: str, other: str) -> bool:
    """Whether two tags are of one version, as far as can be told."""
    if tag.startswith(_PREFIX) and other.startswith(_PREFIX):
        return tag.rpartition("-")[2] == other.rpartition("-")[2]
    return tag == other
