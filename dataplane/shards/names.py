"""Checks of names in a packed dataset: sample keys, array names, archive members, objects.

Every name that comes from a caller or from a file passes one of these checks before it becomes a
path, a tar member or an object key, so that nothing can point outside the dataset or read as
something else. Pure functions, no state.

- A *sample key* has no dot, because WebDataset and DALI split member names at the first dot of the
  basename. It may have folders (`run7/case3`).
- An *array name* is a Zarr v3 node path: segments joined by `/`. Dots, spaces and commas are fine.
- A *member name* is what a tar or zip may hold; an *object key* is what an index may refer to.
"""

from __future__ import annotations

import re

from dataplane.errors import ConfigError, FormatError

__all__ = ["check_array_name", "check_key", "check_member_name", "why_not_a_path"]

MAX_KEY_BYTES = 1024
MAX_SEGMENT_BYTES = 240
"""Limit by which `<segment>.zarr.zip` is a legal file name (255 bytes) for an unpacked dataset."""
_MAX_MEMBER_BYTES = 4096
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_RESERVED_SEGMENTS = frozenset({"zarr.json"})


def why_not_a_path(name: str, max_segment_bytes: int = 255) -> str | None:
    """Return the reason that `name` is not a plain relative path, or None when it is one."""
    if not name:
        return "it is empty"
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    if len(encoded) > _MAX_MEMBER_BYTES:
        return f"it is longer than {_MAX_MEMBER_BYTES} bytes"
    if _CONTROL.search(name):
        return "it holds a control character"
    if "\\" in name:
        return "it holds a backslash"
    for segment in name.split("/"):
        if segment == "":
            return "it has an empty part"
        if segment in {".", ".."}:
            return f"it has the part {segment!r}"
        if len(segment.encode()) > max_segment_bytes:
            return f"it has a part longer than {max_segment_bytes} bytes"
    return None


def check_key(key: str) -> None:
    """Check a sample key.

    Raises:
        ConfigError: the key is empty, too long, or holds a dot, a backslash, a control character,
            or an empty part.
    """
    reason = why_not_a_path(key, MAX_SEGMENT_BYTES)
    if reason is None and "." in key:
        reason = "it holds a dot, at which WebDataset would cut it"
    if reason is None and len(key.encode()) > MAX_KEY_BYTES:
        reason = f"it is longer than {MAX_KEY_BYTES} bytes"
    if reason is not None:
        raise ConfigError(f"sample key {key!r} cannot be used: {reason}", hint="rename the sample")


def check_array_name(name: str, where: str) -> None:
    """Check the name of an array.

    Args:
        name: path of the array within its sample.
        where: place to name in the message (`sample 'case1'`).

    Raises:
        FormatError: the name is not a Zarr v3 node path.
    """
    reason = why_not_a_path(name)
    for segment in name.split("/") if reason is None else ():
        if segment in _RESERVED_SEGMENTS or segment.startswith("__"):
            reason = f"Zarr reserves the part {segment!r}"
    if reason is not None:
        raise FormatError(f"{where}: array name {name!r} cannot be used: {reason}")


def check_member_name(name: str, where: str) -> None:
    """Check the name of an archive member or of an object that an index refers to.

    Raises:
        FormatError: the name is absolute, climbs with `..`, or holds control characters.
    """
    reason = why_not_a_path(name)
    if reason is not None:
        raise FormatError(f"{where}: the name {name!r} is refused: {reason}")
