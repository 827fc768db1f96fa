"""Keys that cannot be addressed: each costs itself, and nothing else of its bucket."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from dataplane.errors import ConfigError, Denied, StoreError, Unavailable
from dataplane.stores import Store, StoreConfig, open_store
from dataplane_testing.s3 import Faults, S3Endpoint
from tests.servers.s3 import S3Bucket
from tests.stores.fakes import Answer, HttpServer, Request

ODD = (
    "a//b",
    "x/./y",
    "x/../y",
    "./z",
    "../z",
    "/front",
    "full/",
)
CONTROL = ("two\nlines", "deep/er/bell\x07", "deep/er/del\x7f/below")
"""The client library cannot address them; s3fs can."""
GOOD = ("a/1", "a/2", "deep/er/x+y %41", "ok.bin", "x/3", "ünïcode/日本")


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Endpoint]:
    with S3Endpoint(in_process=True) as served:
        for key in (*ODD, *CONTROL, *GOOD):
            served.put("data", key, f"content of {key}".encode())
        served.put("data", "marker/", b"")
        for name, value in served.environment().items():
            monkeypatch.setenv(name, value)
        yield served


@pytest.fixture(params=["obstore", "s3fs", "anonymous"])
def store(request: pytest.FixtureRequest, endpoint: S3Endpoint) -> Iterator[Store]:
    if request.param == "s3fs":
        pytest.importorskip("s3fs")
        config = StoreConfig(storage_options={"endpoint_url": endpoint.url})
        yield open_store("s3://data", config)
    elif request.param == "anonymous":
        with S3Endpoint(in_process=True, anonymous=True) as public:
            for key in (*ODD, *CONTROL, *GOOD):
                public.put("data", key, f"content of {key}".encode())
            public.put("data", "marker/", b"")
            yield open_store("s3://data", StoreConfig(endpoint_url=public.url, anonymous=True))
    else:
        yield open_store("s3://data")


def test_a_listing_has_every_other_key_with_one_warning(
    store: Store, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    through_s3fs = request.node.callspec.params["store"] == "s3fs"
    expected = sorted((*GOOD, "marker", *(CONTROL if through_s3fs else ())))
    with caplog.at_level(logging.WARNING, logger="dataplane"):
        assert [info.key for info in store.list()] == expected
        below = [key for key in expected if key.startswith("deep/")]
        assert [info.key for info in store.list("deep/")] == below
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert "holds a key that cannot be addressed" in warnings[0]


def test_what_is_listed_can_be_read_as_it_was_listed(store: Store) -> None:
    for info in store.list():
        if info.key != "marker":
            content = store.get_range(info.key, 0, info.size_bytes, if_match=info.etag)
            assert bytes(content) == f"content of {info.key}".encode()
            assert store.head(info.key).etag == info.etag


def test_a_level_has_its_other_keys_and_names_what_it_hides(endpoint: S3Endpoint) -> None:
    store = open_store("s3://data")
    top = store.list_level()
    assert [info.key for info in top.objects] == ["ok.bin"]
    assert top.prefixes == ("a/", "deep/", "full/", "marker/", "x/", "ünïcode/")
    assert sorted(top.hidden) == ["../", "./", "/", "two\nlines"]
    below = store.list_level("a/")
    assert [info.key for info in below.objects] == ["a/1", "a/2"]
    assert (below.prefixes, below.hidden) == ((), ("a//",))
    assert store.list_level("deep/er/").hidden == ("deep/er/bell\x07", "deep/er/del\x7f/")
    assert store.list_level("full/").hidden == ("full/",)
    assert store.list_level("marker/").hidden == ()


def test_a_store_below_a_prefix_lists_relative_to_it(endpoint: S3Endpoint) -> None:
    store = open_store("s3://data/deep")
    assert [info.key for info in store.list()] == ["er/x+y %41"]
    assert store.list_level("er/").hidden == ("er/bell\x07", "er/del\x7f/")


def test_keys_are_listed_over_several_pages_from_wherever_the_client_gave_up(
    endpoint: S3Endpoint,
) -> None:
    many = [f"many/{number:05}" for number in range(1500)]
    for key in many:
        endpoint.put("data", key, b"")
    endpoint.put("data", "many/01299//b", b"")
    store = open_store("s3://data/many")
    assert [f"many/{info.key}" for info in store.list()] == many
    level = store.list_level()
    assert [f"many/{info.key}" for info in level.objects] == many
    assert level.prefixes == ("01299/",)
    assert store.list_level("01299/").hidden == ("01299//",)


def test_after_the_first_refusal_the_client_is_not_asked_again(endpoint: S3Endpoint) -> None:
    store = open_store("s3://data")
    store.list_level()
    endpoint.clear_requests()
    store.list_level()
    store.list_level("a/")
    assert [record.operation for record in endpoint.requests()] == ["ListObjectsV2"] * 2


def test_a_bucket_without_such_keys_is_listed_by_the_client_alone(endpoint: S3Endpoint) -> None:
    endpoint.create_bucket("plain")
    endpoint.put("plain", "a/b", b"")
    list(open_store("s3://plain").list())
    assert [record.operation for record in endpoint.requests()] == ["ListObjectsV2"]


def test_a_listing_of_our_own_is_tried_again_like_any_other(endpoint: S3Endpoint) -> None:
    store = open_store("s3://data")
    store.list_level()
    endpoint.set_faults(Faults(script=("slow_down", "slow_down"), retry_after_s=0))
    assert [info.key for info in store.list_level("a/").objects] == ["a/1", "a/2"]


def test_a_server_that_takes_no_signed_listing_leaves_the_clients_refusal(
    endpoint: S3Endpoint,
) -> None:
    page = (
        b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a//b</Key>"
        b"<LastModified>2026-01-01T00:00:00Z</LastModified><ETag>e</ETag><Size>1</Size></Contents>"
        b"</ListBucketResult>"
    )

    def answer(request: Request) -> Answer:
        if "X-Amz-Signature" in request.path:
            return Answer(403, body=b"<Error><Code>AccessDenied</Code></Error>")
        return Answer(200, body=page)

    with HttpServer(answer) as server:
        store = open_store("s3://data", StoreConfig(endpoint_url=server.url))
        with pytest.raises(StoreError, match="holds a key with an empty") as caught:
            store.list_level()
    assert not isinstance(caught.value, Denied)


@pytest.mark.parametrize(
    "page",
    [
        b"<html></html>",
        b"no XML",
        b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        b"<!DOCTYPE x><ListBucketResult/>",
        b"<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>",
        b"<ListBucketResult><Contents><Key>k</Key><Size>x</Size></Contents></ListBucketResult>",
        b"<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t"
        b"</NextContinuationToken></ListBucketResult>",
    ],
)
def test_an_answer_that_is_no_listing_is_refused(endpoint: S3Endpoint, page: bytes) -> None:
    bad = (
        b"<ListBucketResult><Contents><Key>a//b</Key><LastModified>2026-01-01T00:00:00Z"
        b"</LastModified><ETag>e</ETag><Size>1</Size></Contents></ListBucketResult>"
    )
    with HttpServer(
        lambda request: Answer(body=page if "X-Amz-Signature" in request.path else bad)
    ) as server:
        store = open_store("s3://data", StoreConfig(endpoint_url=server.url, max_attempts=1))
        with pytest.raises(StoreError, match="cannot list") as caught:
            store.list_level()
    assert not isinstance(caught.value, Unavailable)


@pytest.mark.ceph
def test_radosgw_lists_what_can_be_addressed(s3_bucket: S3Bucket) -> None:
    client = s3_bucket.server.client()
    odd = ("a//b", "x/./y", "two\nlines", "full/")
    for key in (*odd, *GOOD):
        client.put_object(Bucket=s3_bucket.name, Key=key, Body=b"x")
    client.close()
    store = open_store(s3_bucket.url)
    assert [info.key for info in store.list()] == sorted(GOOD)
    level = store.list_level("a/")
    assert ([info.key for info in level.objects], level.hidden) == (["a/1", "a/2"], ("a//",))


@pytest.mark.parametrize("part", ["a//b", "x/../y", "bell\x07/x"])
def test_a_url_below_such_a_part_is_refused_in_the_words_of_its_listing(part: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be addressed: (a part of )?it ") as caught:
        open_store(f"s3://data/{part}")
    assert repr(f"s3://data/{part}") in str(caught.value)
    assert caught.value.exit_code == 2
