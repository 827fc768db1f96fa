"""Forwarder: a store that hands every call on to another.

The base of policies (which add one thing to some calls), of views (which rename keys) and of stores
whose client is made late. A subclass names the store to hand on to, and overrides what it changes.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

from dataplane.stores.base import Buffer, Listing, ObjectInfo, Store

__all__ = ["StoreForwarder", "StoreWrapper"]


class StoreForwarder:
    """A store that hands every call on unchanged, to `_inner`."""

    @property
    def _inner(self) -> Store:
        """Store that gets the call."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        return self._inner.url

    @property
    def identity(self) -> str:
        return self._inner.identity

    def full_key(self, key: str) -> str:
        return self._inner.full_key(key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self._inner.list(prefix)

    def list_level(self, prefix: str = "") -> Listing:
        return self._inner.list_level(prefix)

    def head(self, key: str) -> ObjectInfo:
        return self._inner.head(key)

    def get_range(self, key: str, start: int, stop: int, *, if_match: str | None = None) -> Buffer:
        return self._inner.get_range(key, start, stop, if_match=if_match)

    def stream_range(
        self,
        key: str,
        start: int,
        stop: int,
        *,
        piece_bytes: int,
        if_match: str | None = None,
    ) -> Generator[Buffer, None, None]:
        return self._inner.stream_range(
            key, start, stop, piece_bytes=piece_bytes, if_match=if_match
        )

    def put(self, key: str, data: Buffer | os.PathLike[str]) -> ObjectInfo:
        return self._inner.put(key, data)

    def delete(self, key: str) -> None:
        self._inner.delete(key)

    def close(self) -> None:
        self._inner.close()


class StoreWrapper(StoreForwarder):
    """A forwarder to a store that is there from the start."""

    def __init__(self, inner: Store) -> None:
        self.__inner = inner

    @property
    def _inner(self) -> Store:
        return self.__inner
