"""Pages of a listing: the next keys and common prefixes. Pure functions over sorted keys.

The order is that of UTF-8 bytes, which is also Python's order of strings. A page holds at most
`max_keys` entries, keys and common prefixes together; a token gives the start of the next page. A
common prefix is found once and skipped with a binary search, so a page costs O(entries · log keys)
for any number of keys behind a prefix.
"""

from __future__ import annotations

import base64
import binascii
import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from dataplane_testing.s3.model import S3Error
from dataplane_testing.s3.objects import ObjectVersion

__all__ = ["MAX_KEYS", "Page", "PageRequest", "decode_token", "encode_token", "list_page"]

MAX_KEYS = 1000
_KEY = attrgetter("key")


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A client's request of a page: after `after`, which is a key or a common prefix."""

    prefix: str = ""
    delimiter: str = ""
    after: str = ""
    max_keys: int = MAX_KEYS


@dataclass(frozen=True, slots=True)
class Page:
    """One page. `next_after` is the start of the next one; None on the last."""

    objects: tuple[ObjectVersion, ...]
    prefixes: tuple[str, ...]
    next_after: str | None


def list_page(versions: Sequence[ObjectVersion], request: PageRequest) -> Page:
    """Return one page of `versions`, which are in key order."""
    prefix, delimiter = request.prefix, request.delimiter
    position = bisect.bisect_left(versions, prefix, key=_KEY)
    if request.after:
        position = max(position, bisect.bisect_right(versions, request.after, key=_KEY))
        if delimiter and request.after.endswith(delimiter):
            # It may be a common prefix that the page before has shown: its keys are done.
            shown = _common_prefix(request.after, prefix, delimiter)
            if shown == request.after:
                position = max(position, _after_prefix(versions, shown))
    objects: list[ObjectVersion] = []
    prefixes: list[str] = []
    last = ""
    while position < len(versions) and versions[position].key.startswith(prefix):
        if len(objects) + len(prefixes) >= request.max_keys:
            # A page of no entries at all is, oddly, not truncated (as S3 responds).
            return Page(tuple(objects), tuple(prefixes), last or None)
        version = versions[position]
        shown = _common_prefix(version.key, prefix, delimiter) if delimiter else None
        if shown is None:
            objects.append(version)
            last = version.key
            position += 1
        else:
            prefixes.append(shown)
            last = shown
            position = _after_prefix(versions, shown)
    return Page(tuple(objects), tuple(prefixes), None)


def _common_prefix(key: str, prefix: str, delimiter: str) -> str | None:
    end = key.find(delimiter, len(prefix))
    return None if end < 0 else key[: end + len(delimiter)]


def _after_prefix(versions: Sequence[ObjectVersion], prefix: str) -> int:
    """Return the position after all keys that start with `prefix`."""
    # The least string above all of them: the prefix with its last character that can grow, grown.
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return len(versions)
    return bisect.bisect_left(versions, stem[:-1] + chr(ord(stem[-1]) + 1), key=_KEY)


def encode_token(after: str) -> str:
    """Make an opaque continuation token."""
    return base64.urlsafe_b64encode(b"1" + after.encode()).decode()


def decode_token(token: str) -> str:
    """Read a continuation token.

    Raises:
        S3Error: it was not made by `encode_token`.
    """
    try:
        text = base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    if not text.startswith("1"):
        raise S3Error(400, "InvalidArgument", "The continuation token provided is incorrect")
    return text[1:]
