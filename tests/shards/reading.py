"""Read packed arrays back with zarr-python, for tests of what the writer stored."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np

from dataplane.shards import DatasetIndex, SampleEntry
from dataplane.stores import Store


def archive_bytes(store: Store, entry: SampleEntry) -> bytes:
    return bytes(store.get_range(entry.shard, entry.zip_start, entry.zip_stop))


def read_sample(store: Store, key: str, names: list[str] | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of a sample by name."""
    import zarr

    index = DatasetIndex.load(store)
    entry = index[index.find(key)]
    with zipfile.ZipFile(io.BytesIO(archive_bytes(store, entry))) as archive:
        memory: dict[str, Any] = {
            name: zarr.core.buffer.cpu.Buffer.from_bytes(archive.read(name))
            for name in archive.namelist()
        }
    group = zarr.open_group(zarr.storage.MemoryStore(memory, read_only=True), mode="r")
    return {name: np.asarray(group[name][...]) for name in names or entry.arrays}
