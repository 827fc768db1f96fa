"""A store seen from one of its prefixes, as if that were its root; read only.

`DatasetIndex.load` reads the dataset at a store's root, and one store may have many datasets below
it. Thread-safe, no state.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from dataclasses import replace

from dataplane.errors import Denied
from dataplane.stores.base import Buffer, Listing, ObjectInfo, Store
from dataplane.stores.forwarder import StoreWrapper

__all__ = ["PrefixStore"]


class PrefixStore(StoreWrapper):
    """A view of a store.

    Args:
        store: store below the view; it stays the caller's, so closing the view does nothing.
        prefix: prefix that ends in `/`.
    """

    def __init__(self, store: Store, prefix: str) -> None:
        super().__init__(store)
        self._prefix = prefix

    @property
    def url(self) -> str:
        return f"{self._inner.url.rstrip('/')}/{self._prefix.rstrip('/')}"

    def full_key(self, key: str) -> str:
        return self._inner.full_key(self._prefix + key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return (self._seen(info) for info in self._inner.list(self._prefix + prefix))

    def list_level(self, prefix: str = "") -> Listing:
        """List one directory level."""
        listing = self._inner.list_level(self._prefix + prefix)
        return Listing(
            tuple(map(self._seen, listing.objects)),
            tuple(below[len(self._prefix) :] for below in listing.prefixes),
            tuple(key[len(self._prefix) :] for key in listing.hidden),
        )

    def head(self, key: str) -> ObjectInfo:
        """Describe one object."""
        return self._seen(self._inner.head(self._prefix + key))

    def get_range(self, key: str, start: int, stop: int, *, if_match: str | None = None) -> Buffer:
        """Read bytes `[start, stop)` of an object."""
        return self._inner.get_range(self._prefix + key, start, stop, if_match=if_match)

    def stream_range(
        self,
        key: str,
        start: int,
        stop: int,
        *,
        piece_bytes: int,
        if_match: str | None = None,
    ) -> Generator[Buffer, None, None]:
        """Read bytes `[start, stop)` of an object in pieces."""
        return self._inner.stream_range(
            self._prefix + key, start, stop, piece_bytes=piece_bytes, if_match=if_match
        )

    def put(self, key: str, data: Buffer | os.PathLike[str]) -> ObjectInfo:
        """Refuse."""
        del data
        raise Denied(f"cannot write {self.url}/{key}: it is a view that is read only")

    def delete(self, key: str) -> None:
        """Refuse."""
        raise Denied(f"cannot delete {self.url}/{key}: it is a view that is read only")

    def close(self) -> None:
        """Do nothing: the store belongs to the caller."""

    def _seen(self, info: ObjectInfo) -> ObjectInfo:
        return replace(info, key=info.key[len(self._prefix) :])
