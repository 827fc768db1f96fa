"""Stores over HTTP, against answers that real servers give on bad days."""

from __future__ import annotations

import dataclasses
import email.utils
import threading
from collections.abc import Callable

import pytest

from dataplane.errors import (
    DataplaneError,
    Denied,
    NotFound,
    ObjectChanged,
    StoreError,
    Throttled,
    Timeout,
    Unavailable,
)
from dataplane.stores import Store, StoreConfig, open_store
from tests.stores.fakes import Answer, HttpServer, Request

_BODY = bytes(range(256)) * 4
_DATE = email.utils.formatdate(1_700_000_000, usegmt=True)
_ONCE = StoreConfig(max_attempts=1, timeout_s=10.0)


def _range_of(request: Request) -> tuple[int, int]:
    first, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
    return int(first), min(int(last) + 1, len(_BODY))


def _serve(request: Request, headers: dict[str, str], *, body: bytes = _BODY) -> Answer:
    if request.method == "HEAD":
        return Answer(200, {"content-length": str(len(body))} | headers, b"")
    start, stop = _range_of(request)
    content_range = {"content-range": f"bytes {start}-{stop - 1}/{len(body)}"}
    return Answer(206, headers | content_range, body[start:stop])


def _good(request: Request) -> Answer:
    return _serve(request, {"etag": '"v1"', "last-modified": _DATE})


@dataclasses.dataclass(frozen=True)
class Way:
    """A way that bytes may come: whole, or as a stream, through the client or past it."""

    name: str

    def open(self, url: str, config: StoreConfig = _ONCE) -> Store:
        return open_store(url, dataclasses.replace(config, direct=self.name == "direct"))

    def store(self, server: HttpServer, config: StoreConfig = _ONCE) -> Store:
        return self.open(f"{server.url}/data set", config)

    def read(self, store, key: str, start: int, stop: int, if_match: str | None = None) -> bytes:
        if self.name == "range":
            return bytes(store.get_range(key, start, stop, if_match=if_match))
        pieces = store.stream_range(key, start, stop, piece_bytes=100, if_match=if_match)
        return b"".join(map(bytes, pieces))


@pytest.fixture(params=["range", "stream", "direct"])
def way(request: pytest.FixtureRequest) -> Way:
    return Way(request.param)


def _answers(*answers: Callable[[Request], Answer]) -> Callable[[Request], Answer]:
    rest = list(answers)

    def answer(request: Request) -> Answer:
        make = rest.pop(0) if len(rest) > 1 else rest[0]
        return make(request)

    return answer


def test_a_range_is_one_request_with_range_and_if_match(way: Way) -> None:
    with HttpServer(_good) as server:
        store = way.store(server)
        info = store.head("a b.bin")
        assert bytes(way.read(store, "a b.bin", 3, 9, if_match=info.etag)) == _BODY[3:9]
    head, get = server.requests
    assert (head.method, get.method) == ("HEAD", "GET")
    assert get.path == "/data%20set/a%20b.bin"
    assert get.headers["range"] == "bytes=3-8"
    assert get.headers["if-match"] == '"v1"'
    assert (info.size_bytes, info.etag, info.modified_s) == (len(_BODY), '"v1"', 1_700_000_000)


def test_opening_and_empty_ranges_make_no_request(way: Way) -> None:
    with HttpServer(_good) as server:
        assert way.read(way.store(server), "k", 5, 5) == b""
    assert server.requests == []


def test_a_server_that_ignores_ranges_is_refused(way: Way) -> None:
    whole = Answer(200, {"etag": '"v1"'}, _BODY)
    with (
        HttpServer(lambda _: whole) as server,
        pytest.raises(StoreError, match="ignores byte ranges"),
    ):
        way.read(way.store(server), "k", 0, 9)
    assert len(server.requests) == 1


def test_listings_are_refused_without_a_request(way: Way) -> None:
    with HttpServer(_good) as server:
        with pytest.raises(StoreError, match="no listings"):
            list(way.store(server).list())
        with pytest.raises(StoreError, match="no listings"):
            way.store(server).list_level()
    assert server.requests == []


def test_a_server_that_ignores_if_match_is_checked_by_its_etag(way: Way) -> None:
    other = _answers(lambda request: _serve(request, {"etag": '"v2"', "last-modified": _DATE}))
    with HttpServer(other) as server, pytest.raises(ObjectChanged, match=r'"v1".*"v2"'):
        way.read(way.store(server), "k", 0, 9, if_match='"v1"')


def test_a_weak_etag_is_compared_here_and_not_sent(way: Way) -> None:
    # If-Match uses strong comparison: a weak etag would never match (RFC 9110, 13.1.1).
    with HttpServer(lambda request: _serve(request, {"etag": 'W/"v1"'})) as server:
        store = way.store(server)
        etag = store.head("k").etag
        assert bytes(way.read(store, "k", 0, 9, if_match=etag)) == _BODY[:9]
        with pytest.raises(ObjectChanged):
            way.read(store, "k", 0, 9, if_match='W/"v0"')
    assert all("if-match" not in request.headers for request in server.requests)


def test_without_an_etag_time_and_size_stand_in(way: Way) -> None:
    later = email.utils.formatdate(1_700_000_001, usegmt=True)
    dates = [_DATE, _DATE, later]
    with HttpServer(lambda request: _serve(request, {"last-modified": dates.pop(0)})) as server:
        store = way.store(server)
        etag = store.head("k").etag
        assert etag == "modified-1700000000-size-1024"
        assert bytes(way.read(store, "k", 0, 9, if_match=etag)) == _BODY[:9]
        with pytest.raises(ObjectChanged, match="modified-1700000001-size-1024"):
            way.read(store, "k", 0, 9, if_match=etag)


def test_a_refused_precondition_names_both_etags(way: Way) -> None:
    def answer(request: Request) -> Answer:
        return _good(request) if request.method == "HEAD" else Answer(412)

    with HttpServer(answer) as server, pytest.raises(ObjectChanged, match=r'"v0".*"v1"'):
        way.read(way.store(server), "k", 0, 9, if_match='"v0"')


def test_an_object_deleted_after_it_was_seen_is_not_found(way: Way) -> None:
    with HttpServer(lambda _: Answer(404)) as server, pytest.raises(NotFound, match="data set/k"):
        way.read(way.store(server), "k", 0, 9, if_match='"v0"')


@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (401, Denied),
        (403, Denied),
        (404, NotFound),
        (408, Timeout),
        (416, StoreError),
        (418, StoreError),
        (429, Throttled),
        (500, Unavailable),
        (502, Unavailable),
        (503, Throttled),
        (504, Timeout),
    ],
)
def test_statuses_become_errors(way: Way, status: int, cls: type[DataplaneError]) -> None:
    with (
        HttpServer(lambda _: Answer(status)) as server,
        pytest.raises(DataplaneError) as caught,
    ):
        way.read(way.store(server), "k", 0, 9)
    assert type(caught.value) is cls
    assert "data%20set/k" in str(caught.value) or "data set/k" in str(caught.value)
    assert len(server.requests) == 1, "the client tried again by itself"


def test_a_truncated_body_is_tried_again(way: Way) -> None:
    def cut(request: Request) -> Answer:
        answer = _good(request)
        answer.cut = 4
        return answer

    with HttpServer(_answers(cut, cut, _good)) as server:
        store = way.store(server, StoreConfig(max_attempts=3))
        assert bytes(way.read(store, "k", 0, 512, if_match='"v1"')) == _BODY[:512]
        assert store.counters["store_retries"] == 2
    # Nothing is resumed: each attempt asks for the whole range, of the same version.
    assert {r.headers["range"] for r in server.requests} == {"bytes=0-511"}
    assert {r.headers["if-match"] for r in server.requests} == {'"v1"'}


def test_an_object_replaced_behind_a_broken_answer_is_noticed(way: Way) -> None:
    def cut(request: Request) -> Answer:
        answer = _good(request)
        answer.cut = 100
        return answer

    def replaced(request: Request) -> Answer:
        if request.method == "GET" and request.headers.get("if-match") == '"v1"':
            return Answer(412)
        return _serve(request, {"etag": '"v2"'}, body=bytes(1024))

    with HttpServer(_answers(cut, replaced)) as server, pytest.raises(ObjectChanged, match='"v2"'):
        way.read(way.store(server, StoreConfig(max_attempts=3)), "k", 0, 512, if_match='"v1"')


def test_a_connection_closed_without_an_answer_is_tried_again(way: Way) -> None:
    def nothing(_: Request) -> Answer:
        return Answer(is_silent=True)

    with HttpServer(_answers(nothing, _good)) as server:
        store = way.store(server, StoreConfig(max_attempts=2, timeout_s=0.2))
        assert bytes(way.read(store, "k", 0, 9)) == _BODY[:9]
        assert store.counters["store_errors_timeout"] == 1


def test_no_answer_in_time_is_a_timeout(way: Way) -> None:
    with (
        HttpServer(lambda _: Answer(is_silent=True)) as server,
        pytest.raises(Timeout, match=r"no answer in time.*1 attempt"),
    ):
        way.read(way.store(server, StoreConfig(max_attempts=1, timeout_s=0.2)), "k", 0, 9)


def test_nobody_listening_is_unavailable(way: Way) -> None:
    with HttpServer(_good) as server:
        url = server.url
    with pytest.raises(Unavailable, match="no connection"):
        way.read(way.open(url), "k", 0, 9)


def test_a_shorter_answer_than_asked_for_is_an_error(way: Way) -> None:
    with (
        HttpServer(_good) as server,
        pytest.raises(StoreError, match=r"\[1000, 1030\) asked for, 24 received.* has 1024"),
    ):
        way.read(way.store(server), "k", 1000, 1030)


def test_a_server_that_does_not_say_the_size_is_refused(way: Way) -> None:
    def answer(_: Request) -> Answer:
        return Answer(200, {"content-length": ""}, b"")

    with HttpServer(answer) as server, pytest.raises(StoreError):
        way.store(server).head("k")


def test_threads_share_one_client(way: Way) -> None:
    with HttpServer(_good) as server:
        store = way.store(server)
        results: list[bytes] = []
        threads = [
            threading.Thread(
                target=lambda n=n: results.append(bytes(way.read(store, "k", n, n + 9)))
            )
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results) == sorted(_BODY[n : n + 9] for n in range(8))
