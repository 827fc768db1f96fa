"""Adapter of packed datasets for the tree: `dataplane.shards` on a store below a prefix.

Thread-safe, no state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from dataplane.stores.base import Buffer, ObjectInfo, Store
from dataplane.stores.prefix import PrefixStore
from dataplane_fuse.samples import ReadObject, ReadRange

if TYPE_CHECKING:
    from dataplane.shards import DatasetIndex, ZipMember

__all__ = ["PackedDatasets", "SampleRanges"]


class PackedDatasets:
    """Reader of packed datasets for the tree."""

    def load_index(self, store: Store, prefix: str, read_object: ReadObject) -> SampleRanges:
        """Load the index below `prefix`; `read_object` reads it, with its key in `store`.

        Raises:
            FormatError: `index.parquet` is not the index of a packed dataset.
        """
        # Imported where it is needed: Arrow takes a third of a second, and most mounts have none.
        from dataplane.shards import DatasetIndex

        @contextmanager
        def read(info: ObjectInfo) -> Iterator[Iterable[Buffer]]:
            yield [read_object(replace(info, key=prefix + info.key), 0, info.size_bytes)]

        dataset = PrefixStore(store, prefix) if prefix else store
        return SampleRanges(DatasetIndex.load(dataset, read))

    def list_archive(self, read: ReadRange, size_bytes: int) -> Sequence[ZipMember]:
        """Read the directory of an archive of stored entries."""
        from dataplane.shards import read_zip_directory

        return read_zip_directory(read, size_bytes)


class SampleRanges:
    """Byte ranges of the archives of all samples, without the entries of their arrays."""

    def __init__(self, index: DatasetIndex) -> None:
        self.keys = index.keys
        self.archive_range = index.archive_range
