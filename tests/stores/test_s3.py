"""S3 as a real server answers: refusals, missing buckets, odd keys."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dataplane.errors import Denied, NotFound, ObjectChanged, StoreError
from dataplane.stores import Store, StoreConfig, open_store
from tests.servers.s3 import S3Bucket, S3Server

pytestmark = pytest.mark.ceph

_CALLS: dict[str, Callable[[Store], object]] = {
    "head": lambda store: store.head("k"),
    "get_range": lambda store: store.get_range("k", 0, 1),
    "list": lambda store: list(store.list()),
    "list_level": lambda store: store.list_level(),
    "put": lambda store: store.put("k", b"1"),
    "put in parts": lambda store: store.put("k", bytes(9 << 20)),
    "delete": lambda store: store.delete("k"),
}
_THROUGH = {
    "obstore": StoreConfig(),
    "fsspec": StoreConfig(storage_options={"default_fill_cache": False}),
}


@pytest.fixture(params=list(_THROUGH))
def through(request: pytest.FixtureRequest) -> StoreConfig:
    if request.param == "fsspec":
        pytest.importorskip("s3fs")
    return _THROUGH[request.param]


def _one_clear_line(err: StoreError, url: str) -> None:
    assert url in str(err)
    assert "\n" not in str(err)
    assert "<" not in str(err)


@pytest.mark.parametrize("call", list(_CALLS))
def test_a_wrong_secret_is_denied(s3_url: str, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(Denied, match=r"secret key is wrong .*SignatureDoesNotMatch") as caught:
        _CALLS[call](open_store(s3_url))
    _one_clear_line(caught.value, s3_url)
    assert "AWS_SECRET_ACCESS_KEY" in str(caught.value)


@pytest.mark.parametrize("call", ["head", "list"])
def test_a_wrong_secret_is_denied_through_fsspec(
    s3_url: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(Denied) as caught:
        _CALLS[call](open_store(s3_url, _THROUGH["fsspec"]))
    _one_clear_line(caught.value, s3_url)


def test_an_unknown_access_key_is_denied(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDNOBODY")
    with pytest.raises(Denied, match=r"does not know the access key .*InvalidAccessKeyId"):
        open_store(s3_url).head("k")


@pytest.mark.parametrize("call", ["head", "get_range", "list", "put"])
def test_anonymous_access_to_a_private_bucket_is_denied(s3_url: str, call: str) -> None:
    open_store(s3_url).put("k", b"1")
    with pytest.raises(Denied, match="AccessDenied"):
        _CALLS[call](open_store(s3_url, StoreConfig(anonymous=True)))


@pytest.mark.parametrize("call", list(_CALLS))
def test_a_missing_bucket_is_not_found_and_named(
    s3_url: str, call: str, through: StoreConfig
) -> None:
    del s3_url  # It puts the credentials into the environment.
    if through is _THROUGH["fsspec"] and call == "delete":
        pytest.skip("s3fs takes a delete in a missing bucket for a delete of a missing key")
    with pytest.raises(NotFound, match="no such bucket: s3://dataplane-no-such-bucket"):
        _CALLS[call](open_store("s3://dataplane-no-such-bucket/x", through))


def test_a_profile_reaches_the_bucket(
    s3_url: str, s3_server: S3Server, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("botocore")
    (tmp_path / "aws-credentials").write_text(
        f"[work]\naws_access_key_id = {s3_server.access_key}\n"
        f"aws_secret_access_key = {s3_server.secret_key}\n"
    )
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_PROFILE", "work")
    store = open_store(s3_url)
    store.put("k", b"by profile")
    assert bytes(store.get_range("k", 3, 10)) == b"profile"


def test_an_object_put_in_parts_has_an_etag_and_is_read_by_it(s3_url: str) -> None:
    store = open_store(s3_url)
    content = bytes(range(256)) * (80 << 10)
    info = store.put("large", content)
    assert info.size_bytes == 20 << 20
    middle = slice((8 << 20) - 3, (8 << 20) + 5)  # Across the border of two parts.
    read = store.get_range("large", middle.start, middle.stop, if_match=info.etag)
    assert bytes(read) == content[middle]
    with pytest.raises(ObjectChanged):
        store.get_range("large", 0, 1, if_match='"other"')


def test_folder_objects_of_consoles_are_left_out_where_keys_follow(s3_bucket: S3Bucket) -> None:
    client = s3_bucket.server.client()
    for key in ("dir/", "dir/a", "dir/sub/", "dir/sub/b"):
        client.put_object(Bucket=s3_bucket.name, Key=key, Body=b"")
    client.close()
    for config in _THROUGH.values():
        store = open_store(s3_bucket.url, config)
        assert [info.key for info in store.list()] == ["dir/a", "dir/sub/b"]
        level = store.list_level("dir/")
        assert [info.key for info in level.objects] == ["dir/a"]
        assert level.prefixes == ("dir/sub/",)
        assert store.list_level().prefixes == ("dir/",)


def test_both_clients_see_one_version(s3_url: str) -> None:
    pytest.importorskip("s3fs")
    ours, theirs = open_store(s3_url), open_store(s3_url, _THROUGH["fsspec"])
    info = ours.put("k", b"content")
    assert theirs.head("k").etag == info.etag
    assert bytes(theirs.get_range("k", 1, 4, if_match=info.etag)) == b"ont"
    assert theirs.list_level() == ours.list_level()
    assert (theirs.identity, theirs.full_key("k")) == (ours.identity, ours.full_key("k"))
