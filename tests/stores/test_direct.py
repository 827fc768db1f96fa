"""Streams that go past the client library: connections, and what is left to the library."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import pytest

from dataplane.errors import Denied, NotFound, StoreError, Throttled, Timeout, Unavailable
from dataplane.stores import Store, StoreConfig, open_store, plain_http
from dataplane.stores.direct import DirectReads
from dataplane.stores.failures import retry_after_s
from dataplane.stores.urls import parse_url
from dataplane.testing.s3 import Faults, S3Endpoint
from tests.stores.fakes import Answer, HttpServer, Request

_BODY = bytes(range(256)) * 8192
_ONCE = StoreConfig(max_attempts=1, timeout_s=10.0, hedge=False)


def _good(request: Request, *, keep: bool = True) -> Answer:
    first, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
    start, stop = int(first), min(int(last) + 1, len(_BODY))
    headers = {"etag": '"v1"', "content-range": f"bytes {start}-{stop - 1}/{len(_BODY)}"}
    return Answer(206, headers, _BODY[start:stop], keep=keep)


def _raw(answer: Answer, head: str) -> Answer:
    answer.raw = head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + answer.body
    return answer


def _stream(store: Store, start: int = 0, stop: int = len(_BODY), piece_bytes: int = 1 << 16):
    pieces = store.stream_range("k", start, stop, piece_bytes=piece_bytes, if_match='"v1"')
    return b"".join(map(bytes, pieces))


def test_a_connection_is_kept_for_the_next_stream() -> None:
    with HttpServer(_good) as server:
        store = open_store(server.url, _ONCE)
        for start in (0, 1, 70_000):
            assert _stream(store, start) == _BODY[start:]
        assert (server.connections, len(server.requests)) == (1, 3)
        assert all(request.headers["if-match"] == '"v1"' for request in server.requests)
        store.close()


def test_a_connection_that_the_server_closed_is_replaced() -> None:
    """At once after the answer, or with the next request, to which it then says nothing."""

    def closing(request: Request) -> Answer:
        answer = _good(request)
        answer.keep = len(server.requests) % 3 != 0
        if len(server.requests) == 5:
            answer.keep, answer.raw = False, b""
        return answer

    with HttpServer(closing) as server:
        store = open_store(server.url, _ONCE)
        for _ in range(6):
            assert _stream(store) == _BODY
        assert store.counters["store_retries"] == 0
        store.close()
        assert len(server.requests) == 7


def test_no_answer_on_a_new_connection_is_unavailable() -> None:
    with HttpServer(lambda _: Answer(raw=b"")) as server:
        with pytest.raises(Unavailable, match="the connection broke"):
            _stream(open_store(server.url, _ONCE))
        assert len(server.requests) == 1


def test_a_stream_that_is_given_up_closes_its_connection() -> None:
    with HttpServer(_good) as server:
        store = open_store(server.url, _ONCE)
        pieces = store.stream_range("k", 0, len(_BODY), piece_bytes=1000)
        assert bytes(next(pieces)) == _BODY[:1000]
        pieces.close()
        assert _stream(store) == _BODY
        store.close()


def test_a_pause_is_a_timeout_and_a_slow_stream_is_not() -> None:
    def stalls(request: Request) -> Answer:
        answer = _good(request)
        answer.cut, answer.keep = 1000, True
        return answer

    with HttpServer(stalls) as server:
        store = open_store(server.url, StoreConfig(max_attempts=1, timeout_s=0.2, hedge=False))
        with pytest.raises(Timeout, match="no answer in time"):
            _stream(store)
        store.close()
    with S3Endpoint(buckets=("slow",)) as endpoint, endpoint.exported():
        store = open_store("s3://slow", StoreConfig(timeout_s=0.5, hedge=False))
        store.put("k", _BODY)
        endpoint.set_faults(Faults(bandwidth_bytes_per_s=2e6))
        begun_s = time.monotonic()
        pieces = store.stream_range("k", 0, len(_BODY), piece_bytes=len(_BODY))
        assert b"".join(map(bytes, pieces)) == _BODY
        assert time.monotonic() - begun_s > 0.6
        assert store.counters["store_retries"] == 0


def test_the_wish_for_a_pause_is_heard() -> None:
    refusal = Answer(503, {"retry-after": "7"}, b"<Code>SlowDown</Code>")
    with HttpServer(lambda _: refusal) as server, pytest.raises(Throttled) as caught:
        _stream(open_store(server.url, _ONCE))
    assert retry_after_s(caught.value) == 7.0


@pytest.mark.parametrize(
    "head",
    [
        "HTTP/1.0 206 OK\ncontent-length: {length}",
        "HTTP/1.1 206 OK\ntransfer-encoding: chunked",
        "HTTP/1.1 206 OK\nconnection: close",
        "HTTP/1.1 206 OK\ncontent-length: {length}\n folded: yes",
        "HTTP/1.1 206 OK\ncontent-length: {length}\nfiller: {filler}",
        "HTTP/1.1 100 Continue\n\nHTTP/1.1 206 OK\ncontent-length: {length}",
        "HTTP/1.1 206 OK\ncontent-length: 5\ncontent-range: bytes 0-{last}/{length}",
        "HTTP/1.1 206 OK\ncontent-length: {length}\ncontent-range: bytes 1-{length}/{length}",
        "HTTP/1.1 206 OK\ncontent-length: {length}\ncontent-range: bytes 0-{last}/*",
        "HTTP/1.1 206 OK\ncontent-length: {length}\ncontent-range: bytes=0-{last}/{length}",
    ],
)
def test_what_is_not_understood_is_left_to_the_library(head: str) -> None:
    """From then on, too, so that no request is made twice."""

    def answer(request: Request) -> Answer:
        good = _good(request, keep=False)
        if len(server.requests) > 1:
            return good
        words = {"length": len(_BODY), "last": len(_BODY) - 1, "filler": "x" * 70_000}
        return _raw(good, head.format(**words))

    with HttpServer(answer) as server:
        store = open_store(server.url, _ONCE)
        assert _stream(store) == _BODY
        assert len(server.requests) == 2
        assert _stream(store, 3) == _BODY[3:]
        assert len(server.requests) == 3
        store.close()
    ours, *others = [request.headers.get("accept") for request in server.requests]
    assert ours is None
    assert all(others), "the library says what it accepts"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(status: int) -> None:
    def answer(request: Request) -> Answer:
        if request.path == "/k":
            return Answer(status, {"location": "/elsewhere"})
        return _good(request, keep=False)

    with HttpServer(answer) as server:
        store = open_store(server.url, _ONCE)
        for _ in range(2):
            assert _stream(store) == _BODY
    assert [request.path for request in server.requests][:3] == ["/k", "/k", "/elsewhere"]
    assert len(server.requests) == 5, "from the second stream on the library asks at once"


def test_an_odd_refusal_is_no_reason_to_give_up_the_way() -> None:
    """A missing key whose answer comes in chunks, and a failure that says nothing."""
    chunks = "HTTP/1.1 404 No\ntransfer-encoding: chunked\nconnection: close"

    def answer(request: Request) -> Answer:
        if request.path == "/missing":
            return _raw(Answer(body=b"0\r\n\r\n"), chunks)
        if len(server.requests) == 3:
            return _raw(Answer(), "HTTP/1.1 503 No\nretry-after: 0\nconnection: close")
        return _good(request, keep=False)

    with HttpServer(answer) as server:
        store = open_store(server.url, StoreConfig(max_attempts=3, hedge=False))
        with pytest.raises(NotFound):
            list(store.stream_range("missing", 0, 10, piece_bytes=10))
        assert _stream(store) == _BODY
        assert store.counters["store_retries"] == 1
    library = ["accept" in request.headers for request in server.requests]
    assert library == [False, True, False, False]


@pytest.mark.parametrize("proven", [False, True])
def test_a_refusal_may_be_of_signed_urls(proven: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some gateways want an Authorization header; but after one good answer a refusal is one."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    def answer(request: Request) -> Answer:
        fresh = proven and len(server.requests) == 1
        if fresh or "authorization" in request.headers:
            return _good(request, keep=False)
        return Answer(403, {}, b"<Code>AccessDenied</Code>")

    with HttpServer(answer) as server:
        config = StoreConfig(endpoint_url=server.url, max_attempts=1, hedge=False)
        store = open_store("s3://bucket", config)
        assert _stream(store) == _BODY
        if proven:
            with pytest.raises(Denied, match="AccessDenied"):
                _stream(store)
        else:
            assert _stream(store) == _BODY
    signed = ["X-Amz-Signature" in request.path for request in server.requests]
    assert signed == ([True, True] if proven else [True, False, False])


@pytest.mark.parametrize("tag", ['"x"\r\nEvil: 1', '"x\0"', '"\u20ac"', '"x"\n\nGET / HTTP/1.1'])
def test_a_hostile_tag_goes_into_no_header(tag: str) -> None:
    with HttpServer(lambda request: _good(request, keep=False)) as server:
        reads = DirectReads.of(parse_url(server.url), _ONCE, None)
        assert reads is not None
        assert reads.get("k", (0, 9), tag) is None
        reads.close()
    assert server.requests == []


@pytest.mark.parametrize(
    "date",
    [
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "Tue, 14 Nov 2023 22:13:20 -0000",
        "Tue, 14 Nov 99999999999999 22:13:20 GMT",
        "Tue, 14 Nov 2023 22:13:20 +99999999999999",
        "yesterday",
    ],
)
def test_odd_dates_make_the_same_version_both_ways(
    date: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()

    def answer(request: Request) -> Answer:
        if request.method == "HEAD":
            return Answer(200, {"content-length": str(len(_BODY)), "last-modified": date})
        good = _good(request, keep=False)
        del good.headers["etag"]
        good.headers["last-modified"] = date
        return good

    def read(direct: bool) -> bytes | str:
        store = open_store(server.url, StoreConfig(max_attempts=1, hedge=False, direct=direct))
        try:
            tag = store.head("k").etag
            return b"".join(map(bytes, store.stream_range("k", 0, 9, piece_bytes=9, if_match=tag)))
        except StoreError as err:
            return type(err).__name__

    try:
        with HttpServer(answer) as server:
            assert read(direct=True) == read(direct=False)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_wish_for_a_pause_in_odd_digits_is_none() -> None:
    refusal = _raw(Answer(), "HTTP/1.1 503 No\ncontent-length: 0")
    refusal.raw = (refusal.raw or b"")[:-2] + b"retry-after: \xb2\r\n\r\n"
    with HttpServer(lambda _: refusal) as server, pytest.raises(Throttled) as caught:
        _stream(open_store(server.url, _ONCE))
    assert retry_after_s(caught.value) is None


def test_a_stream_that_the_garbage_collector_ends_leaves_no_broken_connection() -> None:
    """Its last piece was received, and it is part of a cycle with all that it holds."""

    class Cycle:
        pass

    with HttpServer(_good) as server:
        store = open_store(server.url, _ONCE)
        for _ in range(200):
            cycle = Cycle()
            cycle.itself = cycle  # type: ignore[attr-defined]
            cycle.pieces = store.stream_range("k", 0, 1000, piece_bytes=1000)  # type: ignore[attr-defined]
            assert bytes(next(cycle.pieces)) == _BODY[:1000]  # type: ignore[attr-defined]
            del cycle
            gc.collect(0)
            assert _stream(store, 0, 1000) == _BODY[:1000]
        store.close()
        del store
        gc.collect()


def test_a_forked_child_does_not_share_the_bytes_of_a_stream() -> None:
    with HttpServer(_good) as server:
        store = open_store(server.url, _ONCE)
        pieces = store.stream_range("k", 0, len(_BODY), piece_bytes=1 << 16)
        got = [bytes(next(pieces))]
        child = os.fork()
        if child == 0:
            try:
                next(pieces)
            except Unavailable:
                os._exit(0)
            except BaseException:
                os._exit(2)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        got += map(bytes, pieces)
        assert b"".join(got) == _BODY
        store.close()


def test_connections_that_are_not_used_for_long_are_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = types.SimpleNamespace(monotonic=lambda: now.s, s=0.0)
    monkeypatch.setattr(plain_http, "time", now)
    limits = {"timeout_s": 10.0, "connect_timeout_s": 10.0, "max_idle": 8}
    with S3Endpoint(buckets=("idle",), anonymous=True) as endpoint:
        endpoint.put("idle", "k", _BODY)
        client = plain_http.PlainHttp("127.0.0.1", endpoint.port, **limits)
        before = len(os.listdir("/proc/self/fd"))
        memory = memoryview(bytearray(len(_BODY)))

        def get(count: int) -> int:
            """So many at once; return how many connections there are afterwards."""
            answers = [client.get("/idle/k", {}) for _ in range(count)]
            assert len(os.listdir("/proc/self/fd")) >= before + count
            for answer in answers:
                assert answer.read_into(memory) == len(_BODY)
                assert memory == _BODY
                answer.close()
            return len(os.listdir("/proc/self/fd")) - before

        assert get(10) == 8
        now.s = 20.0
        assert get(1) == 8
        now.s = 40.0
        assert get(1) == 1, "the others have waited for 40 s"
        client.close()
        assert get(1) == 0


def test_every_address_of_a_name_gets_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one where nobody is does no harm."""
    kind = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
    with HttpServer(lambda request: _good(request, keep=False)) as server:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            refusing = closed.getsockname()
        good = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        addresses = [(*kind, refusing), (*kind, good)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        store = open_store(server.url, _ONCE)
        for _ in range(8):
            assert _stream(store, 0, 1000) == _BODY[:1000]
        addresses[1:] = []
        with pytest.raises(Unavailable, match="no connection"):
            _stream(store, 0, 1000)
    assert len(server.requests) == 8


def test_it_is_only_for_plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    def usable(url: str, **settings: object) -> bool:
        config = StoreConfig(**settings)  # type: ignore[arg-type]
        return DirectReads.of(parse_url(url), config, None) is not None

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    assert usable("http://host/data")
    assert usable("s3://bucket", endpoint_url="http://host:9000")
    assert not usable("s3://bucket", endpoint_url="http://host:9000", direct=False)
    assert not usable("https://host/data")
    assert not usable("s3://bucket")
    assert not usable("s3://bucket", endpoint_url="https://host")
    assert not usable("gs://bucket")
    monkeypatch.setenv("AWS_REQUEST_PAYER", "true")
    assert not usable("s3://bucket", endpoint_url="http://host:9000")
    monkeypatch.delenv("AWS_REQUEST_PAYER")
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    assert not usable("http://host/data")
    monkeypatch.setenv("no_proxy", "host")
    assert usable("http://host/data")
    assert usable("http://name.host/data")
    assert not usable("http://ghost/data")
    monkeypatch.setenv("NO_PROXY", "other")
    assert not usable("http://host/data"), "it depends on who reads them"
    monkeypatch.delenv("no_proxy")
    assert not usable("http://host/data")
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.delenv("http_proxy")
    assert not usable("http://h\u00f6st/data")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    assert not usable("s3://bucket", endpoint_url="http://host:9000")


_NAMES = [
    "a b",
    "plus+and&",
    "per%20cent%",
    "a?b#c",
    "ü/ñ~(x)'!*",
    "colon:at@",
    'quo"te',
    "a;b=c,d",
]


@pytest.mark.parametrize("anonymous", [False, True])
def test_any_key_is_addressed_as_the_library_does(anonymous: bool) -> None:
    with S3Endpoint(buckets=("keys",), anonymous=anonymous) as endpoint, endpoint.exported():
        library = open_store("s3://keys/some prefix", StoreConfig(direct=False))
        direct = open_store("s3://keys/some prefix", StoreConfig(anonymous=anonymous))
        for number, name in enumerate(_NAMES):
            info = library.put(name, bytes([number]) * 9)
            pieces = direct.stream_range(name, 2, 7, piece_bytes=4, if_match=info.etag)
            assert b"".join(map(bytes, pieces)) == bytes([number]) * 5
        with pytest.raises(NotFound, match="no object s3://keys/some prefix/missing"):
            list(direct.stream_range("missing", 0, 5, piece_bytes=4))


def test_a_forked_child_leaves_the_connections_to_its_parent() -> None:
    with HttpServer(_good) as server:
        store = open_store(server.url, _ONCE)
        assert _stream(store) == _BODY
        child = os.fork()
        if child == 0:
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert _stream(store) == _BODY
        assert server.connections == 1
        store.close()


def test_ctrl_c_ends_the_wait_for_bytes() -> None:
    program = """
import sys
from dataplane.stores import StoreConfig, open_store
store = open_store(sys.argv[1], StoreConfig(max_attempts=1, timeout_s=60, hedge=False))
print("asking", flush=True)
list(store.stream_range("k", 0, 1000000, piece_bytes=1000000))
"""
    asked = threading.Event()

    def stalls(request: Request) -> Answer:
        answer = _good(request)
        answer.cut = 1000
        asked.set()
        return answer

    with HttpServer(stalls) as server:
        child = subprocess.Popen(
            [sys.executable, "-c", program, server.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            assert asked.wait(60)
            time.sleep(0.3)
            begun_s = time.monotonic()
            child.send_signal(signal.SIGINT)
            _, said = child.communicate(timeout=30)
            assert time.monotonic() - begun_s < 10
        finally:
            child.kill()
            child.wait()
    assert said.rstrip().endswith(b"KeyboardInterrupt")
