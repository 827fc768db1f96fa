"""Pages of ListObjectsV2, read by ourselves. Pure functions.

Keys come percent-encoded (`encoding-type=url`): XML has no way to write a control character. A
space may come as `+`, as in a form, or as `%20`; a plus always comes as `%2B`. A server that does
not say that it encoded has not. Source: API reference of ListObjectsV2, Amazon S3.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote_plus

from dataplane.errors import StoreError
from dataplane.stores.base import ObjectInfo
from dataplane.stores.versions import tag_of

__all__ = ["ListedPage", "listed_pages"]


@dataclass(frozen=True, slots=True)
class ListedPage:
    """One page, with keys and prefixes as the store has them.

    Attributes:
        objects: objects in key order.
        prefixes: common prefixes, in order.
        token: start of the next page; None on the last.
    """

    objects: tuple[ObjectInfo, ...]
    prefixes: tuple[str, ...]
    token: str | None


def listed_pages(
    ask: Callable[[Mapping[str, str]], bytes],
    prefix: str,
    where: str,
    *,
    delimiter: str = "",
    start_after: str = "",
) -> Iterator[ListedPage]:
    """Yield the pages of a listing.

    Args:
        ask: function that sends the parameters and returns the document.
        prefix: prefix of the keys.
        where: the store's URL.
        delimiter: end of common prefixes.
        start_after: key to go on behind.

    Raises:
        StoreError: a document is no listing, or the pages have no end.
    """
    query = {"list-type": "2", "encoding-type": "url", "prefix": prefix}
    if delimiter:
        query["delimiter"] = delimiter
    if start_after:
        query["start-after"] = start_after
    while True:
        page = _parse(ask(query), where)
        yield page
        if page.token is None:
            return
        if page.token == query.get("continuation-token"):
            raise StoreError(f"cannot list {where}: the server sends the same page again and again")
        query["continuation-token"] = page.token


def _parse(document: bytes, where: str) -> ListedPage:
    try:
        # Entities are the one thing that a hostile document could blow up; no listing has any.
        if b"<!DOCTYPE" in document:
            raise ValueError("a DOCTYPE")
        root = ET.fromstring(document)  # noqa: S314 - see above
        if not root.tag.endswith("ListBucketResult"):
            raise ValueError(f"the element {root.tag}")
        space = root.tag.removesuffix("ListBucketResult")
        is_encoded = root.findtext(f"{space}EncodingType") == "url"
        objects = tuple(
            _object(entry, space, where, is_encoded=is_encoded)
            for entry in root.iterfind(f"{space}Contents")
        )
        prefixes = tuple(
            _decoded(entry.findtext(f"{space}Prefix"), is_encoded=is_encoded)
            for entry in root.iterfind(f"{space}CommonPrefixes")
        )
        token = root.findtext(f"{space}NextContinuationToken") or None
        if root.findtext(f"{space}IsTruncated") != "true":
            token = None
        elif token is None:
            raise ValueError("a page that says that more follows, and not where")
    except (ET.ParseError, ValueError) as err:
        raise StoreError(
            f"cannot list {where}: the server's answer is no listing: {err}",
            hint="check the endpoint",
        ) from err
    return ListedPage(objects, prefixes, token)


def _object(entry: ET.Element, space: str, where: str, *, is_encoded: bool) -> ObjectInfo:
    key = _decoded(entry.findtext(f"{space}Key"), is_encoded=is_encoded)
    size_bytes = int(entry.findtext(f"{space}Size") or "")
    date = entry.findtext(f"{space}LastModified")
    modified_s = datetime.fromisoformat(date).timestamp() if date else None
    etag = entry.findtext(f"{space}ETag")
    return ObjectInfo(key, size_bytes, tag_of(etag, modified_s, size_bytes, where), modified_s)


def _decoded(text: str | None, *, is_encoded: bool) -> str:
    if text is None:
        raise ValueError("an entry without a key")
    return unquote_plus(text, errors="surrogateescape") if is_encoded else text
