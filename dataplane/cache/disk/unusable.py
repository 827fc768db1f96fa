"""The cache directories that this process has reported as unusable.

A dataset warns its caller, and several caches may meet the same directory later: only the first of
them warns.
Thread-safe: single operations on a set.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["forget", "is_news"]

_told: set[Path] = set()


def is_news(path: Path) -> bool:
    """Whether this is the first report of a directory since it was last usable; remembers it."""
    if path in _told:
        return False
    _told.add(path)
    return True


def forget(path: Path) -> None:
    """Note that a directory is in use: its next failure is news."""
    _told.discard(path)
