"""A writer that fails, is left or is killed: no dataset, nothing left behind."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataplane.errors import ConfigError, Denied, FormatError, NoSpace, StoreError
from dataplane.shards import DatasetIndex, DatasetWriter, WriteOptions
from dataplane.stores import Store

from .conftest import keys_of, noise, one
from .reading import read_sample


def write_noise(store: Any, options: WriteOptions, *, interrupt: bool = False) -> None:
    """Write two samples that each fill a shard."""
    with DatasetWriter(store, options) as writer:
        for key in "ab":
            writer.add(noise(key, 100_000))
        if interrupt:
            raise KeyboardInterrupt
        writer.finish()


def test_an_exception_leaves_no_dataset_and_no_temporary_files(
    store: Store, temp_dir: Path
) -> None:
    options = WriteOptions(shard_bytes=1 << 16, temp_dir=temp_dir)
    with pytest.raises(KeyboardInterrupt):
        write_noise(store, options, interrupt=True)
    assert keys_of(store) == []
    assert list(temp_dir.iterdir()) == []
    assert not [t for t in threading.enumerate() if t.name.startswith(("dp-encode", "dp-upload"))]


def test_a_finished_writer_leaves_no_temporary_files(store: Store, temp_dir: Path) -> None:
    with DatasetWriter(store, WriteOptions(temp_dir=temp_dir)) as writer:
        writer.add(one())
        writer.finish()
        with pytest.raises(ConfigError, match="finished"):
            writer.add(one("b"))
    assert list(temp_dir.iterdir()) == []
    with pytest.raises(ConfigError, match="closed"):
        writer.add(one("c"))


def test_an_empty_dataset_is_refused(store: Store) -> None:
    with pytest.raises(ConfigError, match="no samples"), DatasetWriter(store):
        pass
    assert keys_of(store) == []


class FailingStore:
    """A store whose writes fail from the nth on."""

    def __init__(self, store: Store, fail_from: int) -> None:
        self._store = store
        self.left = fail_from

    def put(self, key: str, data: Any) -> Any:
        if self.left == 0:
            raise Denied(f"{key}: writes are not allowed")
        self.left -= 1
        return self._store.put(key, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.mark.parametrize("fail_from", [0, 1, 2])
def test_a_failed_upload_is_raised_and_leaves_no_dataset(
    store: Store, temp_dir: Path, fail_from: int
) -> None:
    failing: Any = FailingStore(store, fail_from)
    options = WriteOptions(shard_bytes=1 << 16, temp_dir=temp_dir)
    with pytest.raises(StoreError, match="not allowed"):
        write_noise(failing, options)
    assert keys_of(store) == []
    assert list(temp_dir.iterdir()) == []


def test_a_writer_that_lost_a_shard_never_makes_an_index(store: Store) -> None:
    failing: Any = FailingStore(store, 0)
    writer = DatasetWriter(failing, WriteOptions(shard_bytes=1 << 16))
    writer.add(noise("a", 100_000))
    writer.add(noise("b", 100_000))
    with pytest.raises(StoreError):
        writer.add(noise("c", 100_000))
    failing.left = 100  # Writes work again, but a shard is gone.
    for attempt in (writer.finish, lambda: writer.add(noise("d", 100_000))):
        with pytest.raises(ConfigError, match="broken"):
            attempt()
    writer.abort()
    assert keys_of(store) == []


def test_a_full_disk_is_one_clear_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with DatasetWriter(store) as writer:
        writer.add(one("a"))
        with monkeypatch.context() as patch:
            patch.setattr(os, "sendfile", full)
            with pytest.raises(NoSpace, match="the disk is full"):
                writer.add(noise("b", 2 << 20))  # too large to be encoded into memory
        writer.add(one("c"))
    assert list(DatasetIndex.load(store).keys) == ["a", "c"]
    np.testing.assert_array_equal(read_sample(store, "c")["x"], np.arange(10))


def test_a_small_sample_that_finds_no_room_leaves_nothing_in_the_shard(
    store: Store, temp_dir: Path
) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with DatasetWriter(store, WriteOptions(temp_dir=temp_dir)) as writer:
        writer.add(one("a"))
        (shard,) = temp_dir.glob("*/shard-000000.tar")
        resource.setrlimit(resource.RLIMIT_FSIZE, (shard.stat().st_size + 1000, limit[1]))
        try:
            with pytest.raises(ConfigError, match="File too large"):
                writer.add(noise("b", 50_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        writer.add(one("c"))
    assert list(DatasetIndex.load(store).keys) == ["a", "c"]
    for key in "ac":
        np.testing.assert_array_equal(read_sample(store, key)["x"], np.arange(10))


def test_a_missing_temporary_folder_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing"):
        DatasetWriter(store, WriteOptions(temp_dir=tmp_path / "missing"))


_KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from dataplane.shards import DatasetWriter, SourceArray, SourceSample, WriteOptions
from dataplane.stores import open_store

values = np.random.default_rng(0).integers(0, 256, 100_000, np.uint8)
options = WriteOptions(shard_bytes=1 << 16, temp_dir=Path(sys.argv[2]))
writer = DatasetWriter(open_store(sys.argv[1]), options)
for i in range(4):
    writer.add(SourceSample(f"s{i}", {"x": SourceArray(values)}))
writer._wait_for_upload_locked()
os._exit(9)
"""


def test_a_killed_writer_leaves_no_dataset_and_the_next_one_succeeds(
    store: Store, folder: Path, temp_dir: Path
) -> None:
    command = [sys.executable, "-c", _KILLED, f"file://{folder}", str(temp_dir)]
    done = subprocess.run(command, check=False)
    assert done.returncode == 9
    assert "shard-000002.tar" in keys_of(store)
    with pytest.raises(FormatError, match="not a packed dataset"):
        DatasetIndex.load(store)
    assert len(list(temp_dir.iterdir())) == 1
    with DatasetWriter(store, WriteOptions(temp_dir=temp_dir)) as writer:
        writer.add(one())
    assert list(temp_dir.iterdir()) == []
    assert sorted(keys_of(store)) == ["index.parquet", "shard-000000.tar"]
    np.testing.assert_array_equal(read_sample(store, "a")["x"], np.arange(10))


def test_shards_left_by_a_killed_writer_are_removed_and_nothing_else(store: Store) -> None:
    for key in ("shard-000007.tar", "shard-notes.txt", "other.tar"):
        store.put(key, b"left")
    with DatasetWriter(store) as writer:
        writer.add(one())
    assert sorted(keys_of(store)) == [
        "index.parquet",
        "other.tar",
        "shard-000000.tar",
        "shard-notes.txt",
    ]
