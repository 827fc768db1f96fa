"""What tests look at inside of a cache: the one place that knows how it is built."""

from __future__ import annotations

from dataplane.cache import Cache, CachedObject
from dataplane.cache.disk.session import Session
from dataplane.cache.entries.open_entries import Entry
from dataplane.cache.fetch.scheduler import Job, Scheduler


def entry_of(cache: Cache, blob: CachedObject) -> Entry:
    """The open entry of an object."""
    entry = cache.entry(blob.name, blob.spec)
    assert entry is not None
    return entry


def session_of(cache: Cache) -> Session:
    """The stay in its directory."""
    assert cache.guard.current is not None
    return cache.guard.current.session


def scheduler_of(cache: Cache) -> Scheduler:
    """Its downloads."""
    return cache._downloader.scheduler


def jobs_of(cache: Cache) -> dict[tuple[str, int], Job]:
    """The downloads that are asked for and not done, by block."""
    return scheduler_of(cache)._jobs


def is_idle(cache: Cache) -> bool:
    """Whether nothing is downloaded or written."""
    return not jobs_of(cache)


def pins_of(cache: Cache) -> dict[tuple[str, int], int]:
    """How many plans await each block."""
    return cache.buffer._counts
