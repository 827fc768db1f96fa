"""S3's XML documents: responses are written as text, requests are read with expat.

Requests are untrusted: a document type (the door of entity bombs and external entities) is
refused, depth and number of elements are limited. Pure functions.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from urllib.parse import quote
from xml.parsers import expat
from xml.sax.saxutils import escape as _escape_markup

from dataplane_testing.s3.listing import Page, PageRequest
from dataplane_testing.s3.model import S3Error

__all__ = [
    "document",
    "element",
    "error_document",
    "escape",
    "iso_date",
    "listing_document",
    "read_document",
]

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_MAX_DEPTH = 8
_MAX_ELEMENTS = 100_000
# A carriage return or another control character would not survive a parser as it is. XML 1.0 has
# no place for most of them even as a reference, but S3 writes it so; clients ask for
# `encoding-type=url` to be safe.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f]")


def escape(text: str) -> str:
    """Make any text fit between two tags."""
    text = _escape_markup(text, {'"': "&quot;"})
    return _CONTROLS.sub(lambda match: f"&#{ord(match[0])};", text)


def element(name: str, value: object) -> str:
    """Write one element around a text."""
    return f"<{name}>{escape(str(value))}</{name}>"


def document(root: str, *parts: str) -> bytes:
    """Write a whole document."""
    body = "".join(parts)
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="{_NAMESPACE}">{body}</{root}>'
    return text.encode("utf-8", "replace")


def error_document(code: str, message: str, resource: str, request_id: str) -> bytes:
    """Write an error as S3 does (without a namespace)."""
    parts = [
        element("Code", code),
        element("Message", message),
        element("Resource", resource),
        element("RequestId", request_id),
    ]
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{"".join(parts)}</Error>'
    return text.encode("utf-8", "replace")


def iso_date(seconds: float) -> str:
    """Write a time as S3's documents do: `2006-02-03T16:45:09.000Z`."""
    milliseconds = int(seconds % 1 * 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{milliseconds:03d}Z"


def listing_document(
    bucket: str,
    request: PageRequest,
    page: Page,
    *,
    url_encoded: bool,
    extra: Iterable[str],
) -> bytes:
    """Write a page of a listing; `extra` are the elements in which the two versions differ."""

    def name(text: str) -> str:
        return quote(text, safe="/") if url_encoded else text

    parts = [
        element("Name", bucket),
        element("Prefix", name(request.prefix)),
        element("MaxKeys", request.max_keys),
        element("IsTruncated", "true" if page.next_after is not None else "false"),
        *extra,
    ]
    if request.delimiter:
        parts.append(element("Delimiter", name(request.delimiter)))
    if url_encoded:
        parts.append(element("EncodingType", "url"))
    parts.extend(
        f"<Contents>{element('Key', name(version.key))}"
        f"<LastModified>{iso_date(version.modified_s)}</LastModified>"
        f"{element('ETag', version.etag)}<Size>{version.size_bytes}</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
        for version in page.objects
    )
    parts.extend(
        f"<CommonPrefixes>{element('Prefix', name(prefix))}</CommonPrefixes>"
        for prefix in page.prefixes
    )
    return document("ListBucketResult", *parts)


def read_document(
    text: bytes, root: str, item: str
) -> tuple[list[dict[str, str]], Mapping[str, str]]:
    """Read a document of repeated items, such as the parts of an upload.

    Args:
        text: text of the document.
        root: name of its root element.
        item: name of the repeated element below it.

    Returns:
        Per item a mapping of its children's names to their texts, and the root's own children.

    Raises:
        S3Error: it is not well-formed, or not such a document.
    """
    reader = _Reader(item)
    try:
        reader.parse(text)
    except expat.ExpatError as err:
        raise _malformed(str(err)) from err
    if reader.root != root:
        raise _malformed(f"its root is {reader.root!r}, not {root!r}")
    return reader.items, reader.fields


def _malformed(reason: str) -> S3Error:
    return S3Error(400, "MalformedXML", f"The XML you provided was not well-formed: {reason}")


class _Reader:
    """A reader of the texts of ROOT/ITEM/NAME and ROOT/NAME, ignoring namespaces."""

    def __init__(self, item: str) -> None:
        self._item = item
        self._path: list[str] = []
        self._text: list[str] = []
        self._count = 0
        self.root = ""
        self.items: list[dict[str, str]] = []
        self.fields: dict[str, str] = {}

    def parse(self, text: bytes) -> None:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text.append
        parser.Parse(text, True)

    def _doctype(self, *_: object) -> None:
        raise _malformed("a document type is not allowed")

    def _start(self, name: str, _: Mapping[str, str]) -> None:
        name = name.rpartition(":")[2]
        self._count += 1
        if len(self._path) >= _MAX_DEPTH or self._count > _MAX_ELEMENTS:
            raise _malformed("it is too deep or too long")
        if not self._path:
            self.root = name
        elif len(self._path) == 1 and name == self._item:
            self.items.append({})
        self._path.append(name)
        self._text.clear()

    def _end(self, name: str) -> None:
        del name
        text = "".join(self._text)
        name = self._path.pop()
        if len(self._path) == 2 and self._path[1] == self._item:
            self.items[-1][name] = text
        elif len(self._path) == 1 and name != self._item:
            self.fields[name] = text
        self._text.clear()
