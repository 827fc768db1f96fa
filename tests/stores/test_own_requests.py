"""Requests past the client library: broken connections, and redirections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dataplane.errors import StoreError, Unavailable
from dataplane.stores import Store, StoreConfig, open_store
from dataplane.stores.http.redirects import MAX_REDIRECTS, redirected
from tests.stores.fakes import Answer, HttpServer, Request

_BODY = bytes(range(256)) * 8
_TAG = '"größe"'.encode().decode("latin-1")
_PAGE = b"""<ListBucketResult><IsTruncated>false</IsTruncated>
<Contents><Key>a//b</Key><LastModified>2026-01-01T00:00:00Z</LastModified><ETag>"e"</ETag>
<Size>1</Size></Contents><Contents><Key>k</Key><LastModified>2026-01-01T00:00:00Z</LastModified>
<ETag>"e"</ETag><Size>2048</Size></Contents></ListBucketResult>"""
_CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"


def _object(request: Request, tag: str = _TAG) -> Answer:
    headers = {"etag": tag, "content-length": str(len(_BODY))}
    if request.method == "HEAD":
        return Answer(200, headers)
    first, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
    body = _BODY[int(first) : int(last) + 1]
    content_range = f"bytes {first}-{int(first) + len(body) - 1}/{len(_BODY)}"
    return Answer(206, {"etag": tag, "content-range": content_range}, body)


class _Breaking:
    """Breaks off the first `breaks` answers to requests that the client library did not send."""

    def __init__(self, answer: Callable[[Request], Answer], cut: Answer, breaks: int) -> None:
        self._answer, self._cut, self._breaks = answer, cut, breaks
        self.broken = 0

    def __call__(self, request: Request) -> Answer:
        answer = self._answer(request)
        is_ours = "accept-encoding" in request.headers and request.method == "GET"
        if not is_ours or self.broken == self._breaks:
            return answer
        self.broken += 1
        answer.raw = self._cut.raw
        answer.cut = self._cut.cut
        return answer


def _chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


def _store(server: HttpServer, **settings: Any) -> Store:
    config = StoreConfig(
        endpoint_url=server.url, anonymous=True, direct=False, timeout_s=10.0, **settings
    )
    return open_store("s3://data", config)


_CUTS = {
    "in the body": Answer(cut=100),
    "before the body": Answer(cut=0),
    "in a chunk": Answer(raw=_CHUNKED + b"200\r\n" + _PAGE[:100]),
    "between chunks": Answer(raw=_CHUNKED + _chunk(_PAGE[:100])),
    "in the head": Answer(raw=b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-le"),
}


@pytest.mark.parametrize("cut", _CUTS)
def test_a_page_of_a_listing_that_breaks_off_is_asked_for_again(cut: str) -> None:
    breaking = _Breaking(lambda _: Answer(body=_PAGE), _CUTS[cut], 2)
    with HttpServer(breaking) as server:
        store = _store(server)
        assert [info.key for info in store.list()] == ["k"]
        assert [info.key for info in store.list_level().objects] == ["k"]
        store.close()
    assert breaking.broken == 2


def test_a_page_that_always_breaks_off_is_a_broken_connection_and_no_odd_listing() -> None:
    with HttpServer(_Breaking(lambda _: Answer(body=_PAGE), Answer(cut=100), 99)) as server:
        store = _store(server, max_attempts=2)
        with pytest.raises(Unavailable, match="the connection broke"):
            store.list_level()
        store.close()


_HEAD = b"HTTP/1.1 206 Partial\r\nconnection: close\r\n"


@pytest.mark.parametrize("way", ["range", "stream"])
@pytest.mark.parametrize(
    "cut",
    [
        Answer(cut=100),
        Answer(cut=0),
        Answer(raw=_HEAD + b"content-length: 2048\r\ncontent-range: bytes 0-2"),
    ],
    ids=["in the body", "before the body", "in the head"],
)
def test_a_range_that_breaks_off_is_asked_for_again(way: str, cut: Answer) -> None:
    breaking = _Breaking(_object, cut, 2)
    with HttpServer(breaking) as server:
        store = _store(server)
        if way == "range":
            content = bytes(store.get_range("k", 0, len(_BODY)))
        else:
            pieces = store.stream_range("k", 0, len(_BODY), piece_bytes=500)
            content = b"".join(map(bytes, pieces))
        assert content == _BODY
        store.close()
    assert breaking.broken == 2


def test_a_range_that_always_breaks_off_is_a_broken_connection() -> None:
    with HttpServer(_Breaking(_object, Answer(cut=100), 99)) as server:
        store = _store(server, max_attempts=2)
        with pytest.raises(Unavailable, match="the connection broke"):
            store.get_range("k", 0, len(_BODY))
        store.close()


def _read(store: Store, key: str) -> bytes:
    info = store.head(key)
    content = bytes(store.get_range(key, 0, info.size_bytes, if_match=info.etag))
    pieces = store.stream_range(key, 0, info.size_bytes, piece_bytes=500, if_match=info.etag)
    assert b"".join(map(bytes, pieces)) == content
    return content


def test_one_odd_tag_changes_nothing_for_other_objects() -> None:
    def answer(request: Request) -> Answer:
        return _object(request, _TAG if request.path.endswith("/odd") else '"plain"')

    with HttpServer(answer) as server:
        store = _store(server)
        assert _read(store, "odd") == _BODY
        asked = len(server.requests)
        assert _read(store, "k") == _BODY
        assert [it.method for it in server.requests[asked:]] == ["HEAD", "GET", "GET"]
        agents = {it.headers.get("accept-encoding") for it in server.requests[asked:]}
        assert agents == {None}, "the client library asks"
        asked = len(server.requests)
        assert _read(store, "odd") == _BODY
        assert len(server.requests) == asked + 3, "it is remembered"
        store.close()


@pytest.mark.parametrize("tag", [_TAG, '"plain"'], ids=["odd", "plain"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirections_are_followed_whatever_the_tags(status: int, tag: str) -> None:
    def answer(request: Request) -> Answer:
        if request.path == "/data/odd":
            return _object(request)
        if request.path == "/data/moved":
            return Answer(status, {"location": "/else/where?x=1"})
        assert request.path == "/else/where?x=1"
        return _object(request, tag)

    with HttpServer(answer) as server:
        store = open_store(f"{server.url}/data", StoreConfig(direct=False, max_attempts=1))
        assert _read(store, "odd") == _BODY
        assert _read(store, "moved") == _BODY
        store.close()


@pytest.mark.parametrize(
    ("leads_to", "reason"),
    [
        ("file:///etc/passwd", "from http to file"),
        ("/data/k", f"over {MAX_REDIRECTS} redirections"),
        ("", "leads nowhere"),
        ("http://user:HIDDEN@127.0.0.1/k", "with credentials"),
    ],
)
def test_a_redirection_that_must_not_be_followed_is_refused(leads_to: str, reason: str) -> None:
    is_read = False

    def answer(request: Request) -> Answer:
        return Answer(302, {"location": leads_to}) if is_read else _object(request)

    with HttpServer(answer) as server:
        store = open_store(f"{server.url}/data", StoreConfig(direct=False, max_attempts=1))
        assert store.head("k").size_bytes == len(_BODY)
        is_read = True
        with pytest.raises(StoreError, match=reason) as caught:
            store.get_range("k", 0, 9)
        assert "HIDDEN" not in str(caught.value)
        store.close()


def test_a_redirection_never_leaves_tls() -> None:
    assert redirected("https://a/b", "//c/d#e") == "https://c/d"
    assert redirected("http://a/b", "https://c/d") == "https://c/d"
    assert redirected("http://a/b", "gr\xc3\xb6\xc3\x9fe%20") == "http://a/gr%C3%B6%C3%9Fe%20"
    with pytest.raises(ValueError, match="from https to http"):
        redirected("https://a/b", "http://a/b")
    with pytest.raises(ValueError, match="without a host"):
        redirected("http://a/b", "http://:80/c")


def test_a_bucket_elsewhere_is_not_followed_but_said() -> None:
    is_moved = False

    def answer(request: Request) -> Answer:
        if is_moved:
            return Answer(301, {"location": "/else/k"}, b"<Code>PermanentRedirect</Code>")
        return _object(request)

    with HttpServer(answer) as server:
        store = _store(server, max_attempts=1)
        store.head("k")
        is_moved = True
        with pytest.raises(StoreError, match="another region or endpoint"):
            store.get_range("k", 0, 9)
        store.close()
