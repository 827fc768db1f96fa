"""Conditions and ranges of a request: If-Match and its kin, Range. Pure functions.

Source: RFC 9110, sections 13 and 14, as S3 applies them: one range at most, and a Range header
that cannot be understood is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from dataplane_testing.s3.model import S3Error
from dataplane_testing.s3.objects import ObjectVersion, Precondition

__all__ = ["is_unmodified", "parse_range", "write_precondition"]

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def parse_range(text: str, size_bytes: int) -> tuple[int, int] | None:
    """Return the bytes `[start, stop)` that a Range header asks for; None where it is ignored.

    Raises:
        S3Error: 416, none of them exist.
    """
    match = _RANGE.fullmatch(text)
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match.groups()
    if first:
        start, stop = int(first), min(int(last) + 1 if last else size_bytes, size_bytes)
        if last and int(last) < start:
            return None
    else:
        start, stop = max(0, size_bytes - int(last)), size_bytes
    if start >= stop:
        raise S3Error(
            416,
            "InvalidRange",
            "The requested range is not satisfiable",
            headers=f"Content-Range: bytes */{size_bytes}\r\n",
        )
    return start, stop


def is_unmodified(headers: Mapping[str, str], version: ObjectVersion) -> bool:
    """Check a read's conditions; True where the response is 304 Not Modified.

    Raises:
        S3Error: 412, a condition does not hold.
    """
    if_match = headers.get("if-match")
    if if_match is not None:
        if not _matches(if_match, version.etag):
            raise _failed("If-Match")
    else:
        since = _seconds(headers.get("if-unmodified-since"))
        if since is not None and int(version.modified_s) > since:
            raise _failed("If-Unmodified-Since")
    if_none_match = headers.get("if-none-match")
    if if_none_match is not None:
        return _matches(if_none_match, version.etag)
    since = _seconds(headers.get("if-modified-since"))
    return since is not None and int(version.modified_s) <= since


def write_precondition(headers: Mapping[str, str]) -> Precondition:
    """Return the precondition of a write on the object that it replaces.

    Raises:
        S3Error: If-None-Match with anything but `*`, which S3 does not implement either.
    """
    if_none_match = headers.get("if-none-match")
    if if_none_match not in {None, "*"}:
        raise S3Error(501, "NotImplemented", "If-None-Match of a write can only be *")
    if_match = headers.get("if-match")
    etag = None if if_match is None else f'"{_bare(if_match)}"'
    return Precondition(must_be_absent=if_none_match == "*", etag=etag)


def _matches(header: str, etag: str) -> bool:
    if header == etag:
        return True
    bare = _bare(etag)
    return any(candidate in {"*", bare} for candidate in map(_bare, header.split(",")))


def _bare(etag: str) -> str:
    return etag.strip().removeprefix("W/").strip('"')


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


def _failed(name: str) -> S3Error:
    return S3Error(
        412,
        "PreconditionFailed",
        f"At least one of the pre-conditions you specified did not hold: {name}",
    )
