"""A store that hands everything on to another: the base of the wrappers that add one policy each.

`open_store` composes them as `Retry(Limit(Hedge(Meter(store))))`, so that every request is metered,
an attempt holds a place only while somebody waits for it, and a pause between attempts holds none.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

from dataplane.stores.base import Buffer, Listing, ObjectInfo, Store

__all__ = ["StoreWrapper"]


class StoreWrapper:
    """Hands every call on unchanged."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner

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
