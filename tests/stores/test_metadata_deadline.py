"""Describing and listing have a time limit of their own: somebody waits for them at a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from dataplane.errors import ConfigError, Timeout, Unavailable
from dataplane.stores import Store, StoreConfig, open_store
from dataplane.stores.policy.retry import RetryPolicy, RetryStore
from dataplane.telemetry import Counters
from tests.stores.fakes import Answer, HttpServer, Request, ScriptedStore

_HEADERS = {"etag": '"v1"', "content-range": "bytes 0-3/4"}
_LONG_S = 40.0  # far from the limits below, and from the 120 s of a read


def _hangs(request: Request) -> Answer:
    is_read = request.method == "GET" and "range" in request.headers
    return Answer(206, _HEADERS, b"body") if is_read else Answer(is_silent=True)


@pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.head("k"),
        lambda store: store.list_level(),
        lambda store: list(store.list()),
    ],
    ids=["head", "list_level", "list"],
)
def test_a_server_that_hangs_is_given_up_within_the_deadline_and_asked_twice(
    ask: Callable[[Store], object],
) -> None:
    with HttpServer(_hangs) as server:
        config = StoreConfig(endpoint_url=server.url, anonymous=True, metadata_deadline_s=0.6)
        store = open_store("s3://data", config)
        begun_s = time.monotonic()
        with pytest.raises(Timeout, match="gave up after 2 attempts"):
            ask(store)
        assert time.monotonic() - begun_s < _LONG_S
        assert bytes(store.get_range("k", 0, 4)) == b"body"
        store.close()
    assert len(server.requests) == 3


def test_a_read_may_take_longer_than_a_description() -> None:
    def slow(_: Request) -> Answer:
        time.sleep(0.4)  # a slow store
        return Answer(206, _HEADERS, b"body")

    with HttpServer(slow) as server:
        config = StoreConfig(metadata_deadline_s=0.2, max_attempts=1)
        store = open_store(server.url, config)
        assert bytes(store.get_range("k", 0, 4)) == b"body"
        assert b"".join(map(bytes, store.stream_range("k", 0, 4, piece_bytes=4))) == b"body"
        store.close()


def test_a_file_system_of_fsspec_that_hangs_is_given_up_too() -> None:
    pytest.importorskip("aiohttp")
    with HttpServer(lambda _: Answer(is_silent=True)) as server:
        config = StoreConfig(storage_options={"block_size": 1 << 20}, metadata_deadline_s=0.6)
        store = open_store(server.url, config)
        begun_s = time.monotonic()
        with pytest.raises(Timeout, match="gave up after 2 attempts"):
            store.head("k")
        assert time.monotonic() - begun_s < _LONG_S


def test_the_limit_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert StoreConfig().metadata_deadline_s == 15.0
    assert StoreConfig().metadata_timeout_s == 7.5
    assert StoreConfig(timeout_s=2.0).metadata_timeout_s == 2.0
    monkeypatch.setenv("DATAPLANE_STORE_METADATA_DEADLINE_S", "0")
    with pytest.raises(ConfigError, match="metadata_deadline_s must be positive"):
        open_store("s3://bucket")


class _Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def sleep(self, pause_s: float) -> None:
        self.now_s += pause_s


class _LongListing(ScriptedStore):
    """Takes ten minutes for its pages, then breaks off."""

    def __init__(self, clock: _Clock, failures: int) -> None:
        super().__init__("long-listing", *[Unavailable("broke off") for _ in range(failures)])
        self._clock = clock

    def before_call(self) -> None:
        self._clock.now_s += 600.0
        super().before_call()


@pytest.mark.parametrize(("failures", "succeeds"), [(1, True), (2, False)])
def test_a_long_listing_that_breaks_off_is_tried_again(failures: int, *, succeeds: bool) -> None:
    clock = _Clock()
    policy = RetryPolicy(
        8, 120.0, lambda: clock.now_s, clock.sleep, lambda _, high: high, metadata_deadline_s=15.0
    )
    store = RetryStore(_LongListing(clock, failures), policy, Counters())
    if succeeds:
        store.list_level()
    else:
        with pytest.raises(Unavailable, match="gave up after 2 attempts in 20 min"):
            store.list_level()
