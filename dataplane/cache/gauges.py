"""Gauges of a cache directory: the same for every process that uses it."""

from __future__ import annotations

from dataplane.cache.disk.session import Session
from dataplane.cache.eviction.inventory import disk_room

__all__ = ["directory_gauges"]


def directory_gauges(session: Session) -> dict[str, float]:
    """Return what the directory takes, and the size and free space of its disk.

    Raises:
        OSError: the directory is gone.
    """
    disk_bytes, free_bytes = disk_room(session)
    return {
        "cache_used_bytes": max(0, session.usage.used),
        "cache_disk_bytes": disk_bytes,
        "cache_disk_free_bytes": free_bytes,
    }
