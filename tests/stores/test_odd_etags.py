"""Version tags outside ASCII, which HTTP allows and the client library refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dataplane.cache import Cache, CacheConfig
from dataplane.cli.warm_ranges import wanted
from dataplane.datasets.runtime import Runtime
from dataplane.errors import NotFound, ObjectChanged
from dataplane.stores import Store, StoreConfig, open_store
from dataplane.stores.versions import as_answered
from dataplane.telemetry import Counters
from tests.stores.fakes import Answer, HttpServer, Request

_BODY = bytes(range(256)) * 8
_TAG = '"größe-日本"'
_PAGE = f"""<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>k</Key>
<LastModified>2023-11-14T22:13:20Z</LastModified><ETag>{_TAG}</ETag><Size>{len(_BODY)}</Size>
</Contents></ListBucketResult>"""


class _Tagged:
    """Serves one object `k` whose ETag is of bytes of the test's choice, as S3 and plain HTTP."""

    def __init__(self, tag: bytes, listed: str = _TAG) -> None:
        self.tag = tag
        self.page = _PAGE.replace(_TAG, listed)

    def __call__(self, request: Request) -> Answer:
        path, _, query = request.path.partition("?")
        if "list-type=2" in query:
            return Answer(body=self.page.encode())
        if not path.endswith("/k"):
            return Answer(404)
        headers = {"etag": self.tag.decode("latin-1"), "content-length": str(len(_BODY))}
        if request.method == "HEAD":
            return Answer(200, headers)
        start, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
        body = _BODY[int(start) : int(last) + 1]
        content_range = f"bytes {start}-{int(start) + len(body) - 1}/{len(_BODY)}"
        headers |= {"content-range": content_range, "content-length": str(len(body))}
        # As a server that compares bytes: what is sent in another spelling does not match.
        given = request.headers.get("if-match", headers["etag"])
        return Answer(206, headers, body) if given == headers["etag"] else Answer(412)


def _store(server: HttpServer, scheme: str, *, direct: bool) -> Store:
    config = StoreConfig(max_attempts=1, direct=direct, timeout_s=10.0)
    if scheme == "http":
        return open_store(f"{server.url}/data", config)
    config = dataclasses.replace(config, endpoint_url=server.url, anonymous=True)
    return open_store("s3://data", config)


def _config(server: HttpServer) -> StoreConfig:
    return StoreConfig(max_attempts=1, timeout_s=10.0, endpoint_url=server.url, anonymous=True)


def _stream(store: Store, start: int, stop: int, if_match: str) -> bytes:
    pieces = store.stream_range("k", start, stop, piece_bytes=100, if_match=if_match)
    return b"".join(map(bytes, pieces))


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_an_object_is_described_and_read_under_its_tag(scheme: str, *, direct: bool) -> None:
    with HttpServer(_Tagged(_TAG.encode())) as server:
        store = _store(server, scheme, direct=direct)
        info = store.head("k")
        assert (info.etag, info.size_bytes) == (_TAG, len(_BODY))
        assert _stream(store, 3, 1234, info.etag) == _BODY[3:1234]
        assert bytes(store.get_range("k", 5, 99, if_match=info.etag)) == _BODY[5:99]
        assert bytes(store.get_range("k", 5, 99)) == _BODY[5:99]
        store.close()


@pytest.mark.parametrize("direct", [True, False])
def test_a_read_may_come_before_any_description(*, direct: bool) -> None:
    for first in ("range", "stream"):
        with HttpServer(_Tagged(_TAG.encode())) as server:
            store = _store(server, "s3", direct=direct)
            if first == "range":
                assert bytes(store.get_range("k", 0, 9, if_match=_TAG)) == _BODY[:9]
            else:
                assert _stream(store, 0, 9, _TAG) == _BODY[:9]
            store.close()


@pytest.mark.parametrize("direct", [True, False])
def test_the_tag_of_a_listing_is_that_of_the_object(*, direct: bool) -> None:
    with HttpServer(_Tagged(_TAG.encode())) as server:
        store = _store(server, "s3", direct=direct)
        (listed,) = store.list()
        assert listed.etag == store.head("k").etag == _TAG
        assert _stream(store, 0, 10, listed.etag) == _BODY[:10]
        store.close()


def test_s3fs_and_fsspec_read_under_such_a_tag_too() -> None:
    pytest.importorskip("s3fs")
    with HttpServer(_Tagged(_TAG.encode())) as server:
        options = {"endpoint_url": server.url, "anon": True}
        store = open_store("s3://data", StoreConfig(storage_options=options, max_attempts=1))
        (listed,) = store.list()
        assert bytes(store.get_range("k", 5, 99, if_match=listed.etag)) == _BODY[5:99]
    with HttpServer(_Tagged('"größe"'.encode("latin-1"))) as server:
        options = {"block_size": 1 << 20}
        store = open_store(f"{server.url}/data", StoreConfig(storage_options=options))
        info = store.head("k")
        assert info.etag == '"größe"'
        assert bytes(store.get_range("k", 5, 99, if_match=info.etag)) == _BODY[5:99]


def test_a_tag_of_another_encoding_is_one_text_with_its_listing() -> None:
    with HttpServer(_Tagged('"größe"'.encode("latin-1"))) as server:
        store = _store(server, "s3", direct=False)
        assert store.head("k").etag == '"größe"'
        store.close()


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_a_replaced_object_is_noticed(scheme: str, *, direct: bool) -> None:
    tagged = _Tagged(_TAG.encode())
    with HttpServer(tagged) as server:
        store = _store(server, scheme, direct=direct)
        info = store.head("k")
        tagged.tag = '"größe-2"'.encode()
        with pytest.raises(ObjectChanged, match="größe-2"):
            _stream(store, 0, 10, info.etag)
        with pytest.raises(ObjectChanged, match="größe-2"):
            store.get_range("k", 0, 10, if_match=info.etag)
        tagged.tag = b'"plain"'
        with pytest.raises(ObjectChanged, match="plain"):
            store.get_range("k", 0, 10, if_match=info.etag)
        assert bytes(store.get_range("k", 0, 9, if_match='"plain"')) == _BODY[:9]
        with pytest.raises(ObjectChanged):
            store.get_range("k", 0, 9, if_match='"other"')
        store.close()


def test_what_is_missing_stays_missing() -> None:
    with HttpServer(_Tagged(_TAG.encode())) as server:
        store = _store(server, "s3", direct=False)
        store.head("k")
        with pytest.raises(NotFound):
            store.head("other")
        with pytest.raises(NotFound):
            store.get_range("other", 0, 9)
        store.close()


def test_the_cache_keeps_such_an_object(tmp_path: Path) -> None:
    with HttpServer(_Tagged(_TAG.encode())) as server:
        store = _store(server, "s3", direct=True)
        with Cache(CacheConfig(dir=tmp_path / "c")) as cache:
            source = cache.open(store, store.head("k"))
            assert bytes(source.read(0, len(_BODY))) == _BODY
            asked = len(server.requests)
            assert bytes(source.read(7, 700)) == _BODY[7:700]
            assert len(server.requests) == asked
        store.close()


def test_what_a_listing_cannot_spell_is_asked_for_before_it_is_read() -> None:
    # The bytes are not UTF-8, so XML cannot hold them.
    tagged = _Tagged(b'"\xe9tag-\xc3\xbc"', listed='"\ufffdtag-ü"')
    with HttpServer(tagged) as server:
        store = _store(server, "s3", direct=True)
        (listed,) = store.list()
        info = as_answered(store, listed)
        assert info == store.head("k")
        assert _stream(store, 0, 10, info.etag) == _BODY[:10]
        tagged.tag = b'"\xe8tag-\xc3\xbc"'
        with pytest.raises(ObjectChanged):
            _stream(store, 0, 10, info.etag)
        with wanted("s3://data", _config(server)) as (_, ranges):
            assert [it.info.etag for it in ranges] == [store.head("k").etag]
        runtime = Runtime(
            "s3://data", store_config=_config(server), cache_config=None,
            shards={"k": listed}, sizes={}, counters=Counters(),
        )  # fmt: skip
        assert runtime.describe("k").etag == store.head("k").etag
        runtime.close()
        store.close()
