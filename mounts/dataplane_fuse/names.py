"""File names of keys: which keys have one, and the report of those that have none.

Object keys are any text; file names are not. A key whose part at this level is empty (`a//b`), `.`
or `..`, holds a NUL or a `/`, is longer than 255 bytes or is not valid Unicode has no file name.
Such keys are *hidden*: they are left out of listings and cannot be looked up, so that no name
ever escapes the mount point. So is an object `a` beside `a/b`, because a name is a file or a
directory, never both; the directory wins, as it leads to more. Renaming them instead would make
names that change when their neighbours do. Of a remote store keys with a control character are
hidden, too: its clients cannot address them.

Names of local folders need not be UTF-8. Python stands a surrogate for each byte that is not (PEP
383), and such a name is shown as the bytes it is.

`HiddenNames` counts what was hidden and warns once per directory and reason. Thread-safe.
"""

from __future__ import annotations

import threading

from dataplane.telemetry import Counters, logger

__all__ = ["MAX_NAME_BYTES", "HiddenNames", "encoded_name", "why_not_a_name"]

MAX_NAME_BYTES = 255
"""Longest file name in bytes. Source: NAME_MAX of linux/limits.h."""

_MAX_REMEMBERED = 10_000


def why_not_a_name(name: str) -> str | None:
    """Say why `name` cannot be a file name, or return None when it can.

    Example:
        >>> why_not_a_name("pressure.vtu"), why_not_a_name("..")
        (None, 'it is . or ..')
    """
    if not name:
        return "it is empty"
    if name in {".", ".."}:
        return "it is . or .."
    if "/" in name:
        return "it holds a /"
    if "\0" in name:
        return "it holds a NUL"
    encoded = encoded_name(name)
    # Bytes that came from elsewhere than a local folder may spell another name.
    if encoded is None or encoded.decode("utf-8", "surrogateescape") != name:
        return "it is not valid Unicode"
    if len(encoded) > MAX_NAME_BYTES:
        return f"it is longer than {MAX_NAME_BYTES} bytes"
    return None


def encoded_name(name: str) -> bytes | None:
    r"""Return the bytes of a file name, or None where there are none.

    Example:
        >>> encoded_name("caf\udce9"), encoded_name("\ud800")
        (b'caf\xe9', None)
    """
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return None


class HiddenNames:
    """Counts hidden keys in `mount_hidden_keys` and warns once per directory and reason."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._lock = threading.Lock()
        self._told: set[tuple[str, str]] = set()

    def report(self, directory: str, name: str, reason: str) -> None:
        """Count one hidden key of `directory`; warn when the pair is new."""
        self._counters.add("mount_hidden_keys")
        with self._lock:
            # Past the limit nothing new is said; the counter goes on.
            if (directory, reason) in self._told or len(self._told) >= _MAX_REMEMBERED:
                return
            self._told.add((directory, reason))
        logger.warning(
            "hidden in the mount: %r in directory %r, because %s (said once for this directory)",
            name[:MAX_NAME_BYTES],
            directory,
            reason,
        )
