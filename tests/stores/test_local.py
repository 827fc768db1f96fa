"""What only a folder can do wrong."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dataplane.errors import Denied, NoSpace, NotFound, ObjectChanged, StoreError
from dataplane.stores.clients import local
from dataplane.stores.clients.local import LocalStore


def _everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_missing_root_is_not_found_when_listed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "missing")
    with pytest.raises(NotFound, match="no such folder"):
        list(store.list())
    with pytest.raises(NotFound, match="no such folder"):
        store.list_level()


def test_a_missing_root_is_made_by_the_first_write(tmp_path: Path) -> None:
    LocalStore(tmp_path / "new" / "deep").put("a/k", b"1")
    assert _everything(tmp_path) == ["new", "new/deep", "new/deep/a", "new/deep/a/k"]


def test_a_folder_is_not_an_object(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(NotFound, match="not a file"):
        LocalStore(tmp_path).head("folder")
    with pytest.raises(NotFound):
        LocalStore(tmp_path).get_range("folder", 0, 1)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_space_and_leaves_the_old_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = LocalStore(tmp_path)
    store.put("k", b"old")

    def write(fd: int, data: memoryview) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(local.os, "write", write)
    with pytest.raises(NoSpace, match=r"cannot write .*/k"):
        store.put("k", b"new")
    assert (tmp_path / "k").read_bytes() == b"old"
    assert _everything(tmp_path) == ["k"]


def test_a_write_that_fails_takes_the_folders_away_that_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(fd: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = LocalStore(tmp_path / "new" / "deep")
    with monkeypatch.context() as patch:
        patch.setattr(local.os, "write", write)
        with pytest.raises(NoSpace):
            store.put("a/k", b"1")
    assert _everything(tmp_path) == []
    store.put("a/k", b"1")
    assert _everything(tmp_path) == ["new", "new/deep", "new/deep/a", "new/deep/a/k"]


def test_a_root_that_was_made_and_is_empty_goes_when_the_store_is_closed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for folder in ("there", "new/deep"):
        store = LocalStore(tmp_path / folder)
        store.put("k", b"1")
        store.close()
        assert (tmp_path / folder / "k").exists()
        store.delete("k")
        store.close()
    assert _everything(tmp_path) == ["there"]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(local.os, "write", lambda fd, data: write(fd, data[:3]))
    LocalStore(tmp_path).put("k", b"0123456789")
    assert (tmp_path / "k").read_bytes() == b"0123456789"


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "k").write_bytes(b"0123456789")
    pread = os.pread
    monkeypatch.setattr(local.os, "pread", lambda fd, n, at: pread(fd, min(n, 4), at))
    assert LocalStore(tmp_path).get_range("k", 1, 10) == b"123456789"


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(fd: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(local.os, "fsync", fsync)
    with pytest.raises(KeyboardInterrupt):
        LocalStore(tmp_path).put("k", b"new")
    assert _everything(tmp_path) == []


def test_a_file_rewritten_in_place_while_it_is_read_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "k"
    path.write_bytes(b"a" * 100)
    os.utime(path, ns=(1, 1))
    store = LocalStore(tmp_path)
    etag = store.head("k").etag
    pread = os.pread

    def pread_then_rewrite(fd: int, count: int, at: int) -> bytes:
        content = pread(fd, count, at)
        with path.open("r+b") as stream:
            stream.write(b"b" * 100)
        return content

    monkeypatch.setattr(local.os, "pread", pread_then_rewrite)
    with pytest.raises(ObjectChanged, match="replaced"):
        store.get_range("k", 0, 100, if_match=etag)


def test_writes_under_way_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".dataplane-put-0123").write_bytes(b"half")
    (tmp_path / "k").write_bytes(b"1")
    store = LocalStore(tmp_path)
    assert [info.key for info in store.list()] == ["k"]
    assert [info.key for info in store.list_level().objects] == ["k"]


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (tmp_path / "elsewhere").write_bytes(b"linked")
    (root / "a" / "file").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "broken").symlink_to(tmp_path / "nowhere")
    store = LocalStore(root)
    assert [info.key for info in store.list()] == ["a/file"]
    assert bytes(store.get_range("a/file", 0, 6)) == b"linked"


def test_pipes_and_sockets_are_not_objects(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    store = LocalStore(tmp_path)
    assert list(store.list()) == []
    with pytest.raises(NotFound, match="not a file"):
        store.head("pipe")
    with pytest.raises(NotFound, match="not a file"):
        store.get_range("pipe", 0, 1)


def test_a_key_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("k", b"1")
    with pytest.raises(StoreError, match="both a file and the start"):
        store.put("k/below", b"1")
    with pytest.raises(NotFound):
        store.head("k/below")
    store.delete("k/below")
    assert (tmp_path / "k").read_bytes() == b"1"


def test_a_folder_cannot_be_overwritten(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a/k", b"1")
    with pytest.raises(StoreError, match="both a file and the start"):
        store.put("a", b"1")
    assert _everything(tmp_path) == ["a", "a/k"]


def test_delete_takes_empty_folders_away_but_not_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    store = LocalStore(root)
    store.put("a/b/c/k", b"1")
    store.put("a/other", b"1")
    store.delete("a/b/c/k")
    assert _everything(root) == ["a", "a/other"]
    store.delete("a/other")
    assert root.is_dir()
    assert _everything(root) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_what_may_not_be_read_is_denied(tmp_path: Path) -> None:
    (tmp_path / "k").write_bytes(b"1")
    (tmp_path / "k").chmod(0)
    with pytest.raises(Denied, match="cannot read"):
        LocalStore(tmp_path).get_range("k", 0, 1)


@pytest.mark.parametrize(
    ("number", "cls"),
    [(errno.EACCES, Denied), (errno.EPERM, Denied), (errno.EROFS, Denied), (errno.EIO, StoreError)],
)
def test_the_systems_refusals_are_translated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, cls: type[StoreError]
) -> None:
    (tmp_path / "k").write_bytes(b"1")

    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(local.os, "open", refuse)
    store = LocalStore(tmp_path)
    with pytest.raises(cls, match=os.strerror(number)):
        store.get_range("k", 0, 1)
    with pytest.raises(cls, match=os.strerror(number)):
        store.put("new", b"1")


def test_a_name_too_long_for_the_file_system_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="too long"):
        LocalStore(tmp_path).put("n" * 300, b"1")
