"""Keys, ranges and sources: checks of them, and listings made of keys. No state.

Stores agree on one rule, the strictest of their members: a key is a relative path of non-empty
segments, none of them `.` or `..`, without NUL. So a key can neither leave a local folder nor mean
two things, and the same key works on every store.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from dataplane.errors import ConfigError
from dataplane.stores.base import Buffer, Listing, ObjectInfo
from dataplane.telemetry import logger

__all__ = [
    "LeftOut",
    "check_key",
    "check_level",
    "check_prefix",
    "check_range",
    "check_source",
    "join_key",
    "level_of",
    "why_foreign",
    "why_unusable",
]

MAX_KEY_BYTES = 1024
"""S3's limit on a key; the smallest of the stores that have one."""

_FORBIDDEN_SEGMENTS = frozenset({"", ".", ".."})
_CONTROL = re.compile("[\\x00-\\x1f\\x7f]")
_SHOWN_CHARACTERS = 200


def _usable(key: str) -> bool:
    return "\0" not in key and _FORBIDDEN_SEGMENTS.isdisjoint(key.split("/"))


def why_unusable(key: str) -> str | None:
    """Return the reason that no store takes a key that one of them holds, or None when all do.

    Example:
        >>> why_unusable("a/b"), why_unusable("a//b")
        (None, 'a part of it is empty')
    """
    parts = key.split("/")
    if "" in parts:
        return "a part of it is empty"
    if not _FORBIDDEN_SEGMENTS.isdisjoint(parts):
        return "a part of it is . or .."
    if "\0" in key:
        return "it holds a NUL"
    return None


def why_foreign(key: str) -> str | None:
    r"""Return the reason that clients of remote stores cannot address a key, or None.

    Example:
        >>> why_foreign("two\nlines")
        'it holds a control character'
    """
    reason = why_unusable(key)
    if reason is None and _CONTROL.search(key):
        return "it holds a control character"
    if reason is None and not _is_unicode(key):
        return "it is not valid Unicode"
    return reason


def _is_unicode(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


class LeftOut:
    """A warning, once per store, that a listing leaves out unusable keys. Thread-safe.

    Args:
        where: the store's URL.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._told = False

    def tell(self, key: str, reason: str) -> None:
        """Warn that a key was left out."""
        if not self._told:
            self._told = True
            logger.warning(
                "%s holds a key that cannot be addressed, and is read without it: %r, because %s "
                "(said once, there may be more)",
                self._where,
                key[:_SHOWN_CHARACTERS],
                reason,
            )


def check_key(key: str) -> str:
    """Return `key` when it is usable.

    Raises:
        ConfigError: it is empty, absolute, too long, or has an empty, `.` or `..` segment.
    """
    if not _usable(key):
        raise ConfigError(
            f"not an object key: {key!r}",
            hint="a key is a relative path without empty, '.' or '..' parts",
        )
    if len(key) > MAX_KEY_BYTES // 4 and len(key.encode(errors="surrogatepass")) > MAX_KEY_BYTES:
        raise ConfigError(f"object key longer than {MAX_KEY_BYTES} bytes: {key[:60]!r}…")
    return key


def check_level(prefix: str) -> str:
    """Return `prefix` when it names a directory level: empty, or ending in `/`.

    Raises:
        ConfigError: it does not.
    """
    if prefix == "":
        return prefix
    if not prefix.endswith("/") or not _usable(prefix[:-1]):
        raise ConfigError(
            f"not a directory prefix: {prefix!r}", hint="it is empty or a key that ends in '/'"
        )
    return prefix


def check_prefix(prefix: str) -> str:
    """Return `prefix` when keys can start with it.

    Raises:
        ConfigError: it holds an empty, `.` or `..` segment before its last one.
    """
    folder, slash, _ = prefix.rpartition("/")
    if "\0" in prefix or (slash and not _usable(folder)):
        raise ConfigError(f"not a key prefix: {prefix!r}")
    return prefix


def check_range(key: str, start: int, stop: int) -> None:
    """Refuse a range that no object can have.

    Raises:
        ConfigError: it is negative or backwards.
    """
    if not 0 <= start <= stop:
        raise ConfigError(f"not a byte range: [{start}, {stop}) of {key!r}")


def check_source(data: Buffer | os.PathLike[str]) -> Path | memoryview:
    """Return the source of a write as a path of a file or a view of bytes.

    Raises:
        ConfigError: there is no such file.
    """
    if not isinstance(data, os.PathLike):
        return memoryview(data).cast("B")
    path = Path(data)
    if not path.is_file():
        raise ConfigError(f"cannot put the file {path}: there is no such file")
    return path


def join_key(prefix: str, key: str) -> str:
    """Join a store's prefix (no slashes at its ends) with a key or key prefix."""
    return f"{prefix}/{key}" if prefix else key


def level_of(objects: Iterable[ObjectInfo], prefix: str) -> Listing:
    """Fold a flat listing of everything below `prefix` into one directory level.

    Example:
        >>> infos = [ObjectInfo(key, 0, "e") for key in ("a/b", "a/c/d", "a/c/e")]
        >>> listing = level_of(infos, "a/")
        >>> [info.key for info in listing.objects], listing.prefixes
        (['a/b'], ('a/c/',))
    """
    here: list[ObjectInfo] = []
    below: set[str] = set()
    for info in objects:
        name, slash, _ = info.key[len(prefix) :].partition("/")
        if slash:
            below.add(f"{prefix}{name}/")
        else:
            here.append(info)
    here.sort(key=lambda info: info.key)
    return Listing(tuple(here), tuple(sorted(below)))
