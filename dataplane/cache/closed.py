"""Errors for the users of a closed cache: `CacheError`, or `SystemExit` when the process ends."""

from __future__ import annotations

from dataplane import process_exit
from dataplane.errors import CacheError

__all__ = ["closed_error", "interrupted_error"]


def closed_error() -> CacheError | SystemExit:
    """Return what to raise in this thread, which uses a closed cache."""
    if process_exit.ends_this_thread():
        return SystemExit()
    return CacheError("the cache is closed")


def interrupted_error() -> CacheError | SystemExit:
    """Return what to raise in another thread, whose read the closing of a cache interrupts."""
    if process_exit.has_begun():
        return SystemExit()
    return CacheError("the cache was closed during a read")
