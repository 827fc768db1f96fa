"""Directory listings of the store, remembered for a while.

A `CachedListing` is one directory as the store listed it: names of files and of directories below,
after `names` has hidden what cannot be shown. `ListingCache` keeps listings for `ttl_s` seconds
(TTL), so that a program that looks at ten thousand files costs a few list requests; a name that a
fresh listing does not have is known to be absent without a request (negative caching). Listings are
evicted least recently used first when they hold more than `max_entries` names together; a single
larger directory is kept alone, because it cannot be shown in part.

Threads that want the same directory while it is being listed wait for that one listing
(single-flight); a failure goes to all of them and is not remembered. Thread-safe; the lock is never
held during a request.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock

from dataplane.stores.base import Listing, ObjectInfo, Store
from dataplane.stores.keys import why_foreign
from dataplane.telemetry import Counters
from dataplane_fuse.names import HiddenNames, why_not_a_name
from dataplane_fuse.single_flight import SingleFlight

__all__ = ["DEFAULT_MAX_ENTRIES", "CachedListing", "ListingCache", "build_level"]

DEFAULT_MAX_ENTRIES = 1_000_000
"""Names remembered at once, about 400 bytes each."""


@dataclass(frozen=True, slots=True, eq=False)
class CachedListing:
    """One directory as the store listed it.

    Attributes:
        prefix: empty for the root, else ends in `/`.
        files: objects of this directory by file name, in key order.
        directories: names of the directories below, in key order.
        listed_at_s: monotonic time of the listing.
    """

    prefix: str
    files: Mapping[str, ObjectInfo]
    directories: Mapping[str, None]
    listed_at_s: float

    def __len__(self) -> int:
        return len(self.files) + len(self.directories)


def build_level(prefix: str, listing: Listing, hidden: HiddenNames, now_s: float) -> CachedListing:
    """Turn a listing into names that can be shown.

    An object whose key is the prefix itself (`a/`) is how consoles mark an empty directory: the
    directory exists because of it, and it is not an entry of its own.
    """
    shown = prefix.rstrip("/")
    directories: dict[str, None] = {}
    for below in listing.prefixes:
        name = below[len(prefix) :].removesuffix("/")
        reason = why_not_a_name(name)
        if reason is None:
            directories[name] = None
        else:
            hidden.report(shown, name, reason)
    files: dict[str, ObjectInfo] = {}
    for info in listing.objects:
        name = info.key[len(prefix) :]
        if not name:
            continue
        if name.endswith("/") and why_not_a_name(name[:-1]) is None:
            directories.setdefault(name[:-1], None)
            continue
        reason = why_not_a_name(name)
        if reason is None and name in directories:
            reason = "a directory has the same name"
        if reason is None:
            files[name] = info
        else:
            hidden.report(shown, name, reason)
    for key in listing.hidden:
        name = key[len(prefix) :]
        part = name.removesuffix("/")
        reason = why_not_a_name(part) or why_foreign(part) or "the store cannot address it"
        hidden.report(shown, name, reason)
    return CachedListing(prefix, files, directories, now_s)


class ListingCache:
    """Cache of listings by prefix, with a TTL and a size limit. See the module's text."""

    def __init__(
        self,
        store: Store,
        *,
        ttl_s: float,
        max_entries: int = DEFAULT_MAX_ENTRIES,
        counters: Counters,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._ttl_s = ttl_s
        self._max_entries = max_entries
        self._counters = counters
        self._clock = clock
        self._hidden = HiddenNames(counters)
        self._lock = Lock()
        self._levels: OrderedDict[str, CachedListing] = OrderedDict()
        self._single_flight: SingleFlight[str, CachedListing] = SingleFlight()
        self._entries = 0

    def get(self, prefix: str) -> CachedListing:
        """Return the listing, making it when it is not known or too old."""
        with self._lock:
            level = self._levels.get(prefix)
            if level is not None and self._is_fresh(level):
                self._levels.move_to_end(prefix)
                return level
        return self._single_flight.run(prefix, lambda: self._list(prefix))

    def fresh(self, prefix: str) -> CachedListing | None:
        """Return the listing if it is known and young enough; makes no request."""
        level = self.known(prefix)
        return level if level is not None and self._is_fresh(level) else None

    def known(self, prefix: str) -> CachedListing | None:
        """Return the listing at any age; makes no request."""
        with self._lock:
            return self._levels.get(prefix)

    def forget(self, prefix: str) -> None:
        """Drop the listing, because something in it is known to have changed."""
        with self._lock:
            level = self._levels.pop(prefix, None)
            if level is not None:
                self._entries -= len(level)

    def report_hidden(self, directory: str, name: str, reason: str) -> None:
        """Count and report a name that is hidden for a reason found outside this module."""
        self._hidden.report(directory, name, reason)

    @property
    def entries(self) -> int:
        """Number of names that are remembered."""
        with self._lock:
            return self._entries

    def _list(self, prefix: str) -> CachedListing:
        # The age counts from before the request: what changes while it runs is not in it.
        started_s = self._clock()
        self._counters.add("mount_listings")
        level = build_level(prefix, self._store.list_level(prefix), self._hidden, started_s)
        with self._lock:
            self._keep_locked(level)
        return level

    def _is_fresh(self, level: CachedListing) -> bool:
        return self._clock() - level.listed_at_s < self._ttl_s

    def _keep_locked(self, level: CachedListing) -> None:
        old = self._levels.pop(level.prefix, None)
        if old is not None:
            self._entries -= len(old)
        self._levels[level.prefix] = level
        self._entries += len(level)
        while self._entries > self._max_entries and len(self._levels) > 1:
            _, evicted = self._levels.popitem(last=False)
            self._entries -= len(evicted)
            self._counters.add("mount_levels_evicted")
