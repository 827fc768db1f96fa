"""What may be a key, a range or a source, and how keys become listings. No state.

Stores agree on one rule, the strictest of their members: a key is a relative path of non-empty
segments, none of them `.` or `..`, without NUL. So a key can neither leave a local folder nor mean
two things, and the same key works on every store.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from dataplane.errors import ConfigError
from dataplane.stores.base import Buffer, Listing, ObjectInfo

__all__ = [
    "check_key",
    "check_level",
    "check_prefix",
    "check_range",
    "check_source",
    "join_key",
    "level_of",
]

MAX_KEY_BYTES = 1024
"""S3's limit on a key; the smallest of the stores that have one."""

_FORBIDDEN_SEGMENTS = frozenset({"", ".", ".."})


def _usable(key: str) -> bool:
    return "\0" not in key and _FORBIDDEN_SEGMENTS.isdisjoint(key.split("/"))


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
    """Return what is to be written as a path of a file or a view of bytes.

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
