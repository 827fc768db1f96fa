"""Streams past the client library: what is asked for and how, and what is left to the library."""

from __future__ import annotations

import time

import pytest

from dataplane.errors import Denied, NotFound, ObjectChanged, StoreError, Throttled
from dataplane.stores import StoreConfig, open_store
from dataplane.stores.clients.direct import DirectReads
from dataplane.stores.failures import retry_after_s
from dataplane.stores.urls import parse_url
from dataplane_testing.s3 import S3Endpoint
from tests.stores.fakes import Answer, HttpServer, Request
from tests.stores.ranged import BODY, ONCE, good, raw, stream


def test_the_wish_for_a_pause_is_heard() -> None:
    refusal = Answer(503, {"retry-after": "7"}, b"<Code>SlowDown</Code>")
    with HttpServer(lambda _: refusal) as server, pytest.raises(Throttled) as caught:
        stream(open_store(server.url, ONCE))
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
        whole = good(request, keep=False)
        if len(server.requests) > 1:
            return whole
        words = {"length": len(BODY), "last": len(BODY) - 1, "filler": "x" * 70_000}
        return raw(whole, head.format(**words))

    with HttpServer(answer) as server:
        store = open_store(server.url, ONCE)
        assert stream(store) == BODY
        assert len(server.requests) == 2
        assert stream(store, 3) == BODY[3:]
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
        return good(request, keep=False)

    with HttpServer(answer) as server:
        store = open_store(server.url, ONCE)
        for _ in range(2):
            assert stream(store) == BODY
    assert [request.path for request in server.requests][:3] == ["/k", "/k", "/elsewhere"]
    assert len(server.requests) == 5, "from the second stream on the library asks at once"


def test_an_odd_refusal_is_no_reason_to_give_up_the_way() -> None:
    """A missing key whose answer comes in chunks, and a failure that says nothing."""
    chunks = "HTTP/1.1 404 No\ntransfer-encoding: chunked\nconnection: close"

    def answer(request: Request) -> Answer:
        if request.path == "/missing":
            return raw(Answer(body=b"0\r\n\r\n"), chunks)
        if len(server.requests) == 3:
            return raw(Answer(), "HTTP/1.1 503 No\nretry-after: 0\nconnection: close")
        return good(request, keep=False)

    with HttpServer(answer) as server:
        store = open_store(server.url, StoreConfig(max_attempts=3, hedge=False))
        with pytest.raises(NotFound):
            list(store.stream_range("missing", 0, 10, piece_bytes=10))
        assert stream(store) == BODY
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
            return good(request, keep=False)
        return Answer(403, {}, b"<Code>AccessDenied</Code>")

    with HttpServer(answer) as server:
        config = StoreConfig(endpoint_url=server.url, max_attempts=1, hedge=False)
        store = open_store("s3://bucket", config)
        assert stream(store) == BODY
        if proven:
            with pytest.raises(Denied, match="AccessDenied"):
                stream(store)
        else:
            assert stream(store) == BODY
    signed = ["X-Amz-Signature" in request.path for request in server.requests]
    assert signed == ([True, True] if proven else [True, False, False])


@pytest.mark.parametrize("tag", ['"x"\r\nEvil: 1', '"x\0"', '"\u20ac"', '"x"\n\nGET / HTTP/1.1'])
def test_a_hostile_tag_goes_into_no_header(tag: str) -> None:
    with HttpServer(lambda request: good(request, keep=False)) as server:
        store = open_store(server.url, ONCE)
        with pytest.raises(ObjectChanged):
            b"".join(map(bytes, store.stream_range("k", 0, 9, piece_bytes=9, if_match=tag)))
        with pytest.raises(ObjectChanged):
            store.get_range("k", 0, 9, if_match=tag)
        store.close()
    assert [request.method for request in server.requests] == ["GET", "GET"]
    assert all({"if-match", "evil"}.isdisjoint(request.headers) for request in server.requests)


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
            return Answer(200, {"content-length": str(len(BODY)), "last-modified": date})
        whole = good(request, keep=False)
        del whole.headers["etag"]
        whole.headers["last-modified"] = date
        return whole

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
    refusal = raw(Answer(), "HTTP/1.1 503 No\ncontent-length: 0")
    refusal.raw = (refusal.raw or b"")[:-2] + b"retry-after: \xb2\r\n\r\n"
    with HttpServer(lambda _: refusal) as server, pytest.raises(Throttled) as caught:
        stream(open_store(server.url, ONCE))
    assert retry_after_s(caught.value) is None


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxies_and_what_the_library_alone_knows_are_left_to_it(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def usable(url: str, **settings: object) -> bool:
        config = StoreConfig(**settings)  # type: ignore[arg-type]
        return DirectReads.of(parse_url(url), config, None) is not None

    other = "http" if scheme == "https" else "https"
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    assert usable(f"{scheme}://host/data")
    assert usable("s3://bucket", endpoint_url=f"{scheme}://host:9000")
    assert not usable("s3://bucket", endpoint_url=f"{scheme}://host:9000", direct=False)
    assert not usable("s3://bucket")
    assert not usable("gs://bucket")
    monkeypatch.setenv("AWS_REQUEST_PAYER", "true")
    assert not usable("s3://bucket", endpoint_url=f"{scheme}://host:9000")
    monkeypatch.delenv("AWS_REQUEST_PAYER")
    monkeypatch.setenv(f"{other}_proxy", "http://proxy:3128")
    assert usable(f"{scheme}://host/data")
    for name in (f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://proxy:3128")
        assert not usable(f"{scheme}://host/data")
        monkeypatch.delenv(name)
    monkeypatch.setenv(f"{scheme}_proxy", "http://proxy:3128")
    assert not usable(f"{scheme}://host/data")
    monkeypatch.setenv("no_proxy", "host")
    assert usable(f"{scheme}://host/data")
    assert usable(f"{scheme}://name.host/data")
    assert not usable(f"{scheme}://ghost/data")
    monkeypatch.setenv("NO_PROXY", "other")
    assert not usable(f"{scheme}://host/data"), "it depends on who reads them"
    monkeypatch.delenv("no_proxy")
    assert not usable(f"{scheme}://host/data")
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.delenv(f"{scheme}_proxy")
    assert not usable(f"{scheme}://h\u00f6st/data")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    assert not usable("s3://bucket", endpoint_url=f"{scheme}://host:9000")


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
