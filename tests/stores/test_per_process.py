"""One client per process, made when it is needed."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import weakref

import pytest

from dataplane.errors import ConfigError, StoreError
from dataplane.stores import StoreConfig, open_store
from dataplane.stores.clients import per_process
from dataplane.stores.clients.object_store import RemoteStore
from dataplane.stores.clients.per_process import PerProcessStore
from dataplane.stores.urls import parse_url
from tests.stores.inside import client_of, obstore_runtime


def _forked(check) -> int:
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            signal.alarm(60)
            code = check()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def test_opening_makes_no_client(moto_url: str) -> None:
    store = PerProcessStore(parse_url(moto_url), StoreConfig())
    assert client_of(store) is None
    store.put("k", b"1")
    assert client_of(store) is not None
    client = client_of(store)
    store.head("k")
    assert client_of(store) is client


def test_a_closed_store_makes_a_new_client(moto_url: str) -> None:
    store = PerProcessStore(parse_url(moto_url), StoreConfig())
    store.put("k", b"1")
    store.close()
    assert client_of(store) is None
    assert store.head("k").size_bytes == 1


def test_a_forked_child_of_a_user_goes_through_fsspec(moto_url: str) -> None:
    store = PerProcessStore(parse_url(moto_url), StoreConfig())
    info = store.put("k", b"content")

    def check() -> int:
        content = bytes(store.get_range("k", 0, 7, if_match=info.etag))
        through = type(client_of(store)).__name__
        return 0 if (content, through) == (b"content", "FsspecStore") else 1

    assert _forked(check) == 0
    assert type(client_of(store)).__name__ == "RemoteStore"


def test_a_forked_child_without_the_package_is_told_what_to_do(
    moto_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PerProcessStore(parse_url(moto_url), StoreConfig())
    store.put("k", b"1")

    def missing(*_: object) -> None:
        raise ConfigError("s3:// needs a package", hint="pip install s3fs")

    monkeypatch.setattr(per_process, "FsspecStore", missing)

    def check() -> int:
        try:
            store.head("k")
        except StoreError as err:
            return 0 if "'spawn'" in str(err) and "pip install s3fs" in str(err) else 1
        return 2

    assert _forked(check) == 0


def test_a_child_forked_before_the_first_use_has_a_client_of_its_own(
    moto_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PerProcessStore(parse_url(moto_url), StoreConfig())
    monkeypatch.setattr(obstore_runtime(), "pid", None)
    assert obstore_runtime().is_usable()
    obstore_runtime().claim()
    assert obstore_runtime().is_usable()
    assert _forked(lambda: 1 if obstore_runtime().is_usable() else 0) == 0
    assert client_of(store) is None


def test_a_store_pickles_as_what_it_was_opened_with(
    moto_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(moto_url)
    identity = store.identity
    recipe = pickle.dumps(store)
    # Another process may have another environment; the endpoint is part of the recipe.
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert pickle.loads(recipe).identity == identity
    assert b"SECRETTEST" not in recipe


def test_a_client_goes_with_the_last_reference_and_not_with_the_garbage_collector() -> None:
    config = StoreConfig(endpoint_url="http://127.0.0.1:1", anonymous=True)
    store = RemoteStore(parse_url("s3://bucket"), config)
    seen = weakref.ref(store)
    gc.disable()
    try:
        del store
        assert seen() is None
    finally:
        gc.enable()
