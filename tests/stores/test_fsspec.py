"""What fsspec file systems do when things go wrong."""

from __future__ import annotations

import errno
import itertools
from pathlib import Path

import pytest

from dataplane.errors import NoSpace, NotFound, ObjectChanged, StoreError, Timeout
from dataplane.stores import StoreConfig
from dataplane.stores.clients.fsspec import FsspecStore
from dataplane.stores.urls import parse_url
from tests.stores.inside import file_system_of

_numbers = itertools.count()


def _folder(path: Path) -> FsspecStore:
    return FsspecStore(parse_url(path), StoreConfig())


def _everything(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_write_that_fails_leaves_the_old_object_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _folder(tmp_path)
    store.put("a/k", b"old")

    def half(target: str, content: bytes, **_: object) -> None:
        Path(target).write_bytes(content[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_system_of(store), "pipe_file", half)
    with pytest.raises(NoSpace, match=r"cannot write .*/a/k"):
        store.put("a/k", b"new")
    assert (tmp_path / "a" / "k").read_bytes() == b"old"
    assert _everything(tmp_path) == ["a/k"]


def test_writes_under_way_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".dataplane-put-0123").write_bytes(b"half")
    (tmp_path / "a" / "k").write_bytes(b"1")
    store = _folder(tmp_path)
    assert [info.key for info in store.list()] == ["a/k"]
    assert [info.key for info in store.list_level("a/").objects] == ["a/k"]


def test_an_object_replaced_during_a_read_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _folder(tmp_path)
    info = store.put("k", b"a" * 100)
    cat_file = file_system_of(store).cat_file

    def read_then_replace(path: str, **limits: int) -> bytes:
        content = cat_file(path, **limits)
        _folder(tmp_path).put("k", b"b" * 100)
        return content

    monkeypatch.setattr(file_system_of(store), "cat_file", read_then_replace)
    with pytest.raises(ObjectChanged, match="replaced"):
        store.get_range("k", 0, 100, if_match=info.etag)


def test_listings_are_not_remembered() -> None:
    store = FsspecStore(parse_url(f"memory://generic-{next(_numbers)}"), StoreConfig())
    store.put("a", b"1")
    assert [info.key for info in store.list()] == ["a"]
    store.put("b", b"1")
    assert [info.key for info in store.list()] == ["a", "b"]
    assert not file_system_of(store).dircache.use_listings_cache


@pytest.mark.parametrize(
    ("err", "cls"),
    [
        (TimeoutError(), Timeout),
        (FileNotFoundError("k"), NotFound),
        (RuntimeError("something https://host/k?signature=topsecret"), StoreError),
    ],
)
def test_what_the_file_system_raises_is_translated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, err: Exception, cls: type[StoreError]
) -> None:
    store = _folder(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise err

    for name in ("info", "cat_file", "find", "ls", "rm_file", "makedirs"):
        monkeypatch.setattr(file_system_of(store), name, fail)
    calls = [lambda: store.head("k"), lambda: store.get_range("k", 0, 1)]
    if cls is not NotFound:  # A missing level is an empty one, a missing key is already deleted.
        calls += [
            lambda: list(store.list()),
            store.list_level,
            lambda: store.delete("k"),
            lambda: store.put("k", b"1"),
        ]
    for call in calls:
        with pytest.raises(cls) as caught:
            call()
        assert type(caught.value) is cls
        assert "topsecret" not in str(caught.value)


def test_a_server_that_does_not_say_the_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _folder(tmp_path)
    monkeypatch.setattr(file_system_of(store), "info", lambda _: {"type": "file", "size": None})
    with pytest.raises(StoreError, match="does not say its size"):
        store.head("k")
