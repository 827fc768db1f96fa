"""`stream_range` for stores whose clients hand out whole ranges: one ranged read per piece.

Every piece carries `if_match`, so an object that is replaced between two pieces is an error. No
state; as thread-safe as the store.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

from dataplane.stores.base import Buffer
from dataplane.stores.keys import check_range

__all__ = ["PiecewiseStore"]


class _Ranged(Protocol):
    def get_range(
        self, key: str, start: int, stop: int, *, if_match: str | None = None
    ) -> Buffer: ...


class PiecewiseStore:
    """A base that gives `stream_range` to a class that has `get_range`."""

    def stream_range(
        self: _Ranged,
        key: str,
        start: int,
        stop: int,
        *,
        piece_bytes: int,
        if_match: str | None = None,
    ) -> Generator[Buffer, None, None]:
        check_range(key, start, stop)
        for first in range(start, stop, piece_bytes):
            yield self.get_range(key, first, min(first + piece_bytes, stop), if_match=if_match)
