"""Pins and leases: the entries that eviction spares.

A *pin* is the user's word, kept in `DIR/pins.json` until it is taken back: an object and all below
it, or every key with a prefix. Which entries it covers follows from what their maps say they are
about, so a pin may come before the first byte of its object, and covers new versions too. What is
pinned is never evicted. A *lease* is a lock of a living process on one entry (`liveness`): what is
leased is evicted only when nothing else is left.

`pins.json` is an object with `version` (1) and `pins`, a list of objects with `store`, `key`,
`is_prefix`, `url` and `pinned_s`. It is replaced as a whole under PINS_BYTE and flushed, since it
cannot be made again. A damaged file is an error for a caller that changes or lists it; eviction
then goes by the last list that it could read.

This module decides nothing about bytes. Thread-safe.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass

from dataplane.cache.disk import locks
from dataplane.cache.disk.directory import Directory
from dataplane.cache.disk.entry_files import EntryFiles
from dataplane.cache.disk.entry_identity import EntryIdentity, Scope
from dataplane.cache.disk.liveness import LivenessLocks
from dataplane.errors import CacheError, ConfigError
from dataplane.telemetry import logger

__all__ = ["MAX_PINS", "Pin", "PinList", "Protection"]

MAX_PINS = 10_000
_FILE = "pins.json"
_VERSION = 1
_MAX_FILE_BYTES = 64 << 20
_MAX_REMEMBERED = 1 << 20  # entries; about 100 MB
_REREAD_S = 1.0


@dataclass(frozen=True, slots=True)
class Pin:
    """A part of a store that the user wants to keep.

    Attributes:
        scope: part of a store that it covers.
        url: URL as the user wrote it.
        pinned_s: time of the pin, in seconds since the epoch.
    """

    scope: Scope
    url: str
    pinned_s: float


class PinList:
    """The user's pins of one cache directory."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def load(self) -> tuple[Pin, ...]:
        """Read the pins.

        Raises:
            CacheError: the file is damaged, or of a newer version.
        """
        path = self._directory.path / _FILE
        try:
            text = self._directory.read_file(_FILE, _MAX_FILE_BYTES)
        except OSError as err:
            raise CacheError(f"cannot read {path}: {err.strerror}") from err
        if text is None:
            return ()
        try:
            document = json.loads(text)
            if document["version"] != _VERSION:
                raise CacheError(
                    f"{path} has version {document['version']!r}, this release knows {_VERSION}",
                    hint="use the release that wrote it, or remove the file and pin again",
                )
            return tuple(_parse(fields) for fields in document["pins"])
        except (ValueError, KeyError, TypeError, RecursionError) as err:
            raise CacheError(
                f"{path} is damaged: {type(err).__name__}: {err}",
                hint="remove the file and pin again",
            ) from err

    def add(self, scope: Scope, url: str) -> bool:
        """Pin a part of a store; False when exactly that is pinned already.

        Raises:
            CacheError: the file is damaged or cannot be written.
            ConfigError: there are too many pins.
        """
        with locks.hold(self._directory.fd, locks.PINS_BYTE):
            pins = self.load()
            if any(pin.scope == scope for pin in pins):
                return False
            if len(pins) >= MAX_PINS:
                raise ConfigError(f"{MAX_PINS} pins are there, more are not allowed")
            self._write((*pins, Pin(scope, url, time.time())))
        return True

    def remove(self, scope: Scope) -> bool:
        """Take a pin back; False when there is none of exactly that scope.

        Raises:
            CacheError: the file is damaged or cannot be written.
        """
        with locks.hold(self._directory.fd, locks.PINS_BYTE):
            pins = self.load()
            kept = tuple(pin for pin in pins if pin.scope != scope)
            if len(kept) == len(pins):
                return False
            self._write(kept)
        return True

    def signature(self) -> tuple[int, int, int] | None:
        """Return what changes with the file; None when there is none."""
        try:
            status = os.stat(_FILE, dir_fd=self._directory.fd, follow_symlinks=False)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _write(self, pins: tuple[Pin, ...]) -> None:
        fields = [
            {
                "store": pin.scope.store,
                "key": pin.scope.key,
                "is_prefix": pin.scope.is_prefix,
                "url": pin.url,
                "pinned_s": round(pin.pinned_s, 3),
            }
            for pin in pins
        ]
        text = json.dumps({"version": _VERSION, "pins": fields}, indent=1)
        try:
            self._directory.write_file(_FILE, text.encode(), durable=True)
        except OSError as err:
            raise CacheError(
                f"cannot write {self._directory.path / _FILE}: {err.strerror}"
            ) from err


class Protection:
    """Protection of entries from eviction, by pins and leases."""

    def __init__(self, pins: PinList, live: LivenessLocks) -> None:
        self._list = pins
        self._live = live
        # The pins, and what they say about entries by name: replaced together.
        self._known: tuple[tuple[Pin, ...], dict[str, bool]] = ((), {})
        self._signature: tuple[int, int, int] | None = None
        self._read_s = -_REREAD_S

    def covers(self, name: str, files: EntryFiles) -> bool:
        """Whether an entry is leased by a living process or pinned by the user."""
        return self._live.is_held(name) or self.is_pinned(name, files)

    def is_pinned(self, name: str, files: EntryFiles) -> bool:
        """Whether an entry is pinned by the user."""
        self._refresh()
        pins, answers = self._known
        if not pins:
            return False
        found = answers.get(name)
        if found is None:
            entry = files.inspect(name, 0)
            if entry is None:
                return False
            identity = EntryIdentity.parse(entry.identity)
            found = any(pin.scope.covers(identity) for pin in pins)
            if len(answers) >= _MAX_REMEMBERED:
                answers.clear()
            answers[name] = found
        return found

    def _refresh(self) -> None:
        """Read the pins again when they have changed; looked at once a second at most."""
        now = time.monotonic()
        if now - self._read_s < _REREAD_S:
            return
        self._read_s = now
        signature = self._list.signature()
        if signature == self._signature:
            return
        self._signature = signature
        try:
            self._known = (self._list.load(), {})
        except CacheError as err:
            logger.warning("%s; eviction goes by the pins read before", err)


def _parse(fields: dict[str, object]) -> Pin:
    store, key, url = fields["store"], fields["key"], fields["url"]
    when, is_prefix = fields["pinned_s"], fields["is_prefix"]
    if not (isinstance(store, str) and isinstance(key, str) and isinstance(url, str)):
        raise TypeError("store, key and url must be text")
    if not (isinstance(when, int | float) and isinstance(is_prefix, bool)):
        raise TypeError("pinned_s must be a number, is_prefix true or false")
    return Pin(Scope(store, key, is_prefix), url, float(when))
