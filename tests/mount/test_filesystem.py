"""What every operation answers, without a kernel."""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

import pytest

import dataplane.errors as errors
from dataplane.stores.base import Listing, ObjectInfo
from dataplane_fuse.errnos import ERRNO_OF_ERROR, errno_of
from dataplane_fuse.filesystem import Filesystem, FilesystemOptions
from dataplane_fuse.nodes import inode_of
from dataplane_fuse.tree import PROBES
from tests.mount.fakes import MODIFIED_S, FakeBlocks, FakeStore
from tests.mount.inside import remembered_names

CONTENT = random.Random(5).randbytes(50_000)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Mount:
    def __init__(
        self, objects: dict[str, bytes], kind: type[FakeStore] = FakeStore, **options: object
    ) -> None:
        self.store = kind(objects)
        self.blocks = FakeBlocks(self.store)
        self.clock = Clock()
        self.fs = Filesystem(
            self.store,
            self.blocks,
            options=FilesystemOptions(**options),  # type: ignore[arg-type]
            clock=self.clock,
        )

    def names(self, path: str = "") -> list[str]:
        return sorted(name for name, _ in self.fs.readdir(path))

    def read(self, path: str, offset: int = 0, size: int = 1 << 20) -> bytes:
        handle = self.fs.open(path)
        buffer = bytearray(size)
        count = self.fs.read_into(handle, offset, memoryview(buffer))
        self.fs.release(handle)
        return bytes(buffer[:count])


@pytest.fixture
def tree() -> Iterator[Mount]:
    """A small mount that must leave nothing open behind."""
    mount = Mount(
        {"a.bin": CONTENT, "runs/1/mesh.vtu": b"one", "runs/2/mesh.vtu": b"two", "z": b""}
    )
    yield mount
    mount.fs.close()
    assert mount.fs.open_files == 0
    assert all(reader.closed for reader in mount.blocks.readers)
    assert all(ahead.closed for ahead in mount.blocks.aheads)


def fails_with(code: int) -> pytest.RaisesExc[OSError]:
    return pytest.RaisesExc(OSError, check=lambda err: err.errno == code)


def test_directories_and_files_are_listed_by_name(tree: Mount) -> None:
    assert tree.names() == ["a.bin", "runs", "z"]
    assert tree.names("runs") == ["1", "2"]
    assert tree.names("runs/1") == ["mesh.vtu"]


def test_attributes_of_a_file_are_those_of_its_object(tree: Mount) -> None:
    attributes = tree.fs.getattr("a.bin")
    assert attributes.mode == stat.S_IFREG | 0o444
    assert attributes.size_bytes == len(CONTENT)
    assert attributes.mtime_ns == int(MODIFIED_S * 1e9)
    assert attributes.blocks * 512 >= len(CONTENT) > (attributes.blocks - 1) * 512


def test_attributes_of_a_directory(tree: Mount) -> None:
    assert tree.fs.getattr("").mode == stat.S_IFDIR | 0o555
    assert tree.fs.getattr("runs/2").is_directory


def test_readdir_and_getattr_agree_on_everything(tree: Mount) -> None:
    for path in ("", "runs", "runs/1"):
        for name, attributes in tree.fs.readdir(path):
            assert tree.fs.getattr(f"{path}/{name}".strip("/")) == attributes


def test_inode_numbers_depend_on_the_path_alone() -> None:
    first, second = Mount({"x/y": b"1"}), Mount({"x/y": b"22", "a": b""})
    assert first.fs.getattr("x/y").inode == second.fs.getattr("x/y").inode
    assert first.fs.getattr("").inode == 1
    assert len({inode_of(f"run/{i}") for i in range(10_000)}) == 10_000


def test_reads_return_the_objects_bytes_at_every_offset(tree: Mount) -> None:
    for offset, size in [(0, 10), (4095, 2), (4096, 4096), (49_990, 100), (0, 60_000)]:
        assert tree.read("a.bin", offset, size) == CONTENT[offset : offset + size]


def test_reads_at_or_past_the_end_are_empty(tree: Mount) -> None:
    assert tree.read("a.bin", len(CONTENT)) == b""
    assert tree.read("a.bin", 1 << 60) == b""
    assert tree.read("z") == b""


def test_random_reads_fetch_only_the_blocks_they_touch(tree: Mount) -> None:
    handle = tree.fs.open("a.bin")
    for offset in (40_000, 9_000, 21_000):
        tree.fs.read_into(handle, offset, memoryview(bytearray(100)))
    assert tree.store.requests["get_range"] == 3
    assert tree.blocks.aheads == []


@pytest.mark.parametrize("path", ["nope", "runs/3", "runs/1/nope", "a.bin/x", "a.bin/x/y"])
def test_a_name_that_is_not_there_is_enoent(tree: Mount, path: str) -> None:
    with fails_with(errno.ENOENT):
        tree.fs.getattr(path)


@pytest.mark.parametrize(
    "flags", [os.O_WRONLY, os.O_RDWR, os.O_TRUNC, os.O_CREAT | os.O_RDWR, os.O_APPEND]
)
def test_opening_for_writing_is_erofs(tree: Mount, flags: int) -> None:
    with fails_with(errno.EROFS):
        tree.fs.open("a.bin", flags)


def test_every_change_is_erofs(tree: Mount) -> None:
    with fails_with(errno.EROFS):
        tree.fs.refuse_write("a.bin")


def test_opening_a_directory_is_eisdir(tree: Mount) -> None:
    with fails_with(errno.EISDIR):
        tree.fs.open("runs")


def test_listing_a_file_is_enotdir(tree: Mount) -> None:
    with fails_with(errno.ENOTDIR):
        tree.names("a.bin")


def test_an_unknown_handle_is_ebadf_and_its_release_does_nothing(tree: Mount) -> None:
    with fails_with(errno.EBADF):
        tree.fs.read_into(99, 0, memoryview(bytearray(1)))
    tree.fs.release(99)


def test_a_name_over_255_bytes_is_enametoolong(tree: Mount) -> None:
    with fails_with(errno.ENAMETOOLONG):
        tree.fs.getattr("ü" * 128)


def test_there_are_no_links_to_read(tree: Mount) -> None:
    with fails_with(errno.ENOSYS):
        tree.fs.readlink("a.bin")


def test_an_open_file_keeps_its_attributes_when_the_object_changes(tree: Mount) -> None:
    handle = tree.fs.open("a.bin")
    tree.store.objects["a.bin"] = b"new"
    assert tree.fs.getattr_open(handle).size_bytes == len(CONTENT)


def test_an_object_replaced_under_an_open_file_is_estale_and_a_new_open_sees_the_new_one(
    tree: Mount,
) -> None:
    handle = tree.fs.open("a.bin")
    buffer = memoryview(bytearray(10))
    tree.fs.read_into(handle, 0, buffer)
    tree.store.objects["a.bin"] = b"new bytes"
    with fails_with(errno.ESTALE):
        tree.fs.read_into(handle, 30_000, buffer)
    # What was read before is of the old version, and stays so.
    assert tree.fs.read_into(handle, 0, buffer) == 10
    assert bytes(buffer) == CONTENT[:10]
    assert tree.read("a.bin") == b"new bytes"


class OddListing(FakeStore):
    """Listings spell etags with what XML holds of them, the same for every version."""

    def info(self, key: str) -> ObjectInfo:
        return replace(super().info(key), etag=f'"é-{super().info(key).etag}"')

    def list_level(self, prefix: str = "") -> Listing:
        level = super().list_level(prefix)
        return replace(
            level, objects=tuple(replace(info, etag='"\ufffd-"') for info in level.objects)
        )


def test_a_file_whose_listed_etag_is_spelled_differently_is_read_under_that_of_a_head() -> None:
    mount = Mount({"a": b"old", "b": b"b"}, OddListing)
    assert mount.names() == ["a", "b"]
    assert mount.read("a") == b"old"
    handle = mount.fs.open("a")
    assert mount.fs.version_of(handle) == mount.store.info("a").etag
    # Another of the same size is another version, though its listing looks the same.
    mount.store.objects["a"] = b"new"
    mount.blocks.cached.clear()
    with fails_with(errno.ESTALE):
        mount.fs.read_into(handle, 0, memoryview(bytearray(3)))
    mount.fs.release(handle)
    assert mount.read("a") == b"new"
    mount.names()
    mount.store.objects["a"] = b"longer"
    with fails_with(errno.ESTALE):
        mount.fs.open("a")
    assert mount.read("a") == b"longer"
    mount.fs.close()


def test_an_object_removed_under_an_open_file_is_estale(tree: Mount) -> None:
    handle = tree.fs.open("a.bin")
    del tree.store.objects["a.bin"]
    with fails_with(errno.ESTALE):
        tree.fs.read_into(handle, 0, memoryview(bytearray(10)))
    with fails_with(errno.ENOENT):
        tree.fs.open("a.bin")


def test_too_many_open_files_are_enfile_until_one_is_closed() -> None:
    mount = Mount({"a": b"1"}, max_handles=2)
    first, _ = mount.fs.open("a"), mount.fs.open("a")
    with fails_with(errno.ENFILE):
        mount.fs.open("a")
    mount.fs.release(first)
    mount.fs.open("a")


def test_extended_attributes_say_where_the_bytes_are(tree: Mount) -> None:
    names = tree.fs.listxattr("a.bin")
    assert names == ["user.dataplane.etag", "user.dataplane.url"]
    assert tree.fs.getxattr("a.bin", "user.dataplane.url") == b"fake://bucket/prefix/a.bin"
    assert (
        tree.fs.getxattr("a.bin", "user.dataplane.etag").decode() == tree.store.info("a.bin").etag
    )
    assert tree.fs.getxattr("", "user.dataplane.pid") == str(os.getpid()).encode()


@pytest.mark.parametrize("name", ["user.dataplane.nope", "user.other"])
def test_other_extended_attributes_are_enodata(tree: Mount, name: str) -> None:
    with fails_with(errno.ENODATA):
        tree.fs.getxattr("a.bin", name)


def test_attributes_of_the_system_are_not_supported_and_cost_no_request(tree: Mount) -> None:
    with fails_with(errno.EOPNOTSUPP):
        tree.fs.getxattr("runs/1/mesh.vtu", "security.capability")
    assert tree.store.requests.total() == 0


def test_statfs_claims_no_space(tree: Mount) -> None:
    statistics = tree.fs.statfs()
    assert (statistics.blocks, statistics.free_blocks) == (0, 0)
    assert statistics.max_name_bytes == 255


def test_a_listing_is_believed_for_its_ttl_and_not_longer(tree: Mount) -> None:
    tree.names()
    tree.store.objects["late"] = b"1"
    tree.clock.now_s += 59
    assert "late" not in tree.names()
    with fails_with(errno.ENOENT):
        tree.fs.getattr("late")
    assert tree.store.requests["list_level"] == 1
    tree.clock.now_s += 2
    assert tree.fs.getattr("late").size_bytes == 1


def test_ten_thousand_lookups_and_absences_cost_one_listing() -> None:
    mount = Mount({f"f{i:05}": b"x" for i in range(5_000)})
    mount.names()
    for i in range(5_000):
        mount.fs.getattr(f"f{i:05}")
        with fails_with(errno.ENOENT):
            mount.fs.getattr(f"g{i:05}")
    assert mount.store.requests == {"list_level": 1}


def test_the_first_names_of_an_unlisted_directory_are_probed_not_listed() -> None:
    mount = Mount({f"big/{i}": b"x" for i in range(100)})
    mount.names()
    for i in range(PROBES):
        mount.fs.getattr(f"big/{i}")
    assert mount.store.requests == {"list_level": 1, "head": PROBES, "list": PROBES}
    for i in range(50, 60):
        mount.fs.getattr(f"big/{i}")
    assert mount.store.requests["list_level"] == 2


def test_a_probed_name_that_is_a_directory_too_is_the_directory() -> None:
    mount = Mount({"d/x": b"file", "d/x/y": b"below"})
    mount.names()
    assert mount.fs.getattr("d/x").is_directory
    assert mount.store.requests["list_level"] == 1


def test_threads_that_want_the_same_listing_share_it() -> None:
    mount = Mount({f"f{i}": b"x" for i in range(10)})
    mount.store.gate = Event()
    with ThreadPoolExecutor(8) as pool:
        lists = [pool.submit(mount.names) for _ in range(8)]
        mount.store.gate.set()
        assert all(len(each.result(timeout=10)) == 10 for each in lists)
    assert mount.store.requests["list_level"] <= 2  # a thread may come after the first has landed


def test_remembered_names_are_bounded() -> None:
    mount = Mount({f"d{i}/{j}": b"" for i in range(50) for j in range(20)}, max_entries=100)
    for i in range(50):
        assert len(mount.names(f"d{i}")) == 20
    assert remembered_names(mount.fs) <= 100
    assert mount.fs.counters["mount_levels_evicted"] > 40


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.Denied("no"), errno.EACCES),
        (errors.Throttled("slow down"), errno.EIO),
        (errors.Timeout("late"), errno.ETIMEDOUT),
        (errors.StoreError("odd"), errno.EIO),
        (errors.NoSpace("cache full"), errno.EIO),
    ],
)
def test_failures_of_the_store_become_errnos(
    tree: Mount, error: errors.DataplaneError, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    tree.store.fail_with = error
    for _ in range(3):
        with fails_with(code):
            tree.names()
    assert len(caplog.records) == 1, "said once"
    tree.store.fail_with = None
    assert tree.names() == ["a.bin", "runs", "z"], "a failure is not remembered"


def test_every_error_of_dataplane_has_an_errno() -> None:
    for name in errors.__all__:
        cls = getattr(errors, name)
        assert errno_of(cls("x")) in errno.errorcode
    assert all(issubclass(cls, errors.DataplaneError) for cls in ERRNO_OF_ERROR)
    assert errno_of(MemoryError()) == errno.ENOMEM
    assert errno_of(ValueError("bug")) == errno.EIO


@pytest.mark.parametrize("options", [{"list_ttl_s": -1}, {"max_handles": 0}, {"max_entries": 0}])
def test_options_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(errors.ConfigError):
        FilesystemOptions(**options)  # type: ignore[arg-type]


def test_an_unexpected_error_is_logged_once_with_its_trace(
    tree: Mount, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        tree.fs.log_unexpected("read", "a.bin", ValueError("bug"))
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info is not None
