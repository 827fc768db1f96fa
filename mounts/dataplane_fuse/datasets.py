"""Packed datasets as the tree needs them: `dataplane.shards` on a store seen below a prefix.

`DatasetIndex.load` reads the dataset at a store's root. The mount's store may have many datasets
below it, so `PrefixStore` shows it one prefix as if that were the root. Thread-safe, no state.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dataplane.stores.base import Buffer, Listing, ObjectInfo, Store
from dataplane_fuse.samples import ReadObject, ReadRange

if TYPE_CHECKING:
    from dataplane.shards import DatasetIndex, ZipMember

__all__ = ["PackedDatasets", "PrefixStore", "SampleRanges"]


class PackedDatasets:
    """How the tree reads packed datasets."""

    def load_index(self, store: Store, prefix: str, read_object: ReadObject) -> SampleRanges:
        """Load the index below `prefix`; `read_object` reads it, with its key in `store`.

        Raises:
            FormatError: `index.parquet` is not the index of a packed dataset.
        """
        # Imported where it is needed: Arrow takes a third of a second, and most mounts have none.
        from dataplane.shards import DatasetIndex

        def read(info: ObjectInfo) -> Buffer:
            return read_object(replace(info, key=prefix + info.key), 0, info.size_bytes)

        dataset = PrefixStore(store, prefix) if prefix else store
        return SampleRanges(DatasetIndex.load(dataset, read))

    def list_archive(self, read: ReadRange, size_bytes: int) -> Sequence[ZipMember]:
        """Read the directory of an archive of stored entries."""
        from dataplane.shards import read_zip_directory

        return read_zip_directory(read, size_bytes)


class SampleRanges:
    """Where the archive of every sample lies, taken from the index's columns at once.

    `DatasetIndex[i]` would do, but it makes the chunk tables of the sample's arrays too, which
    costs a hundred times more than `ls -l` of a hundred thousand samples should.
    """

    def __init__(self, index: DatasetIndex) -> None:
        self.keys = list(index.keys)
        # The index has a row per array; a sample's rows are together, checked when it was loaded.
        numbers = index.table.column("sample_index").to_numpy()
        _, first_rows = np.unique(numbers, return_index=True)
        columns = index.table.select(["shard", "zip_start", "zip_stop"]).take(first_rows)
        self._ranges = list(zip(*(column.to_pylist() for column in columns.columns), strict=True))

    def archive_range(self, number: int) -> tuple[str, int, int]:
        """Return the shard that holds a sample's archive, its first byte and one past the last."""
        shard, start, stop = self._ranges[number]
        return str(shard), int(start), int(stop)


class PrefixStore:
    """A store seen from one of its prefixes; read only, as a mount needs no more.

    Args:
        store: the store; it stays the caller's.
        prefix: ends in `/`.
    """

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix

    @property
    def url(self) -> str:
        """The URL of the prefix."""
        return f"{self._store.url.rstrip('/')}/{self._prefix.rstrip('/')}"

    @property
    def identity(self) -> str:
        """That of the store: an object is the same from wherever it is seen."""
        return self._store.identity

    def full_key(self, key: str) -> str:
        """Return the key below `identity`."""
        return self._store.full_key(self._prefix + key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield all objects whose key starts with `prefix`."""
        return (self._seen(info) for info in self._store.list(self._prefix + prefix))

    def list_level(self, prefix: str = "") -> Listing:
        """List one directory level."""
        listing = self._store.list_level(self._prefix + prefix)
        return Listing(
            tuple(map(self._seen, listing.objects)),
            tuple(below[len(self._prefix) :] for below in listing.prefixes),
            tuple(key[len(self._prefix) :] for key in listing.hidden),
        )

    def head(self, key: str) -> ObjectInfo:
        """Describe one object."""
        return self._seen(self._store.head(self._prefix + key))

    def get_range(self, key: str, start: int, stop: int, *, if_match: str | None = None) -> Buffer:
        """Read bytes `[start, stop)` of an object."""
        return self._store.get_range(self._prefix + key, start, stop, if_match=if_match)

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
        return self._store.stream_range(
            self._prefix + key, start, stop, piece_bytes=piece_bytes, if_match=if_match
        )

    def put(self, key: str, data: Buffer | os.PathLike[str]) -> ObjectInfo:
        """Refuse: a mount is read only."""
        del data
        raise PermissionError(f"{self.url}/{key}: a mount writes nothing")

    def delete(self, key: str) -> None:
        """Refuse: a mount is read only."""
        raise PermissionError(f"{self.url}/{key}: a mount deletes nothing")

    def close(self) -> None:
        """Do nothing: the store belongs to another."""

    def _seen(self, info: ObjectInfo) -> ObjectInfo:
        return replace(info, key=info.key[len(self._prefix) :])
