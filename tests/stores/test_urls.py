"""What URLs name."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from dataplane.errors import ConfigError, MissingPackage
from dataplane.stores import StoreConfig, open_store, split_url
from dataplane.stores.urls import identity_of, parse_url, s3_endpoint


@pytest.mark.parametrize(
    ("url", "scheme", "bucket", "prefix"),
    [
        ("s3://bucket", "s3", "bucket", ""),
        ("s3://bucket/", "s3", "bucket", ""),
        ("S3://bucket/a/b/", "s3", "bucket", "a/b"),
        ("s3a://bucket/a", "s3", "bucket", "a"),
        ("s3://bucket/100%25 raw", "s3", "bucket", "100%25 raw"),
        ("s3://bucket/what?#", "s3", "bucket", "what?#"),
        ("gcs://bucket/x", "gs", "bucket", "x"),
        ("https://host:8443/a%20b/c", "https", "host:8443", "a b/c"),
        (
            "abfs://box@account.dfs.core.windows.net/x",
            "abfs",
            "box@account.dfs.core.windows.net",
            "x",
        ),
        ("sftp://user@host/home", "sftp", "user@host", "home"),
        ("memory://name/p", "memory", "name", "p"),
        ("memory://", "memory", "", ""),
        ("file:///data/a%20b%25", "file", "", "/data/a b%"),
        ("file://localhost/data", "file", "", "/data"),
        ("/data/a%20b", "file", "", "/data/a%20b"),
        ("/data/../data/x/", "file", "", "/data/x"),
    ],
)
def test_urls_come_apart(url: str, scheme: str, bucket: str, prefix: str) -> None:
    location = parse_url(url)
    assert (location.scheme, location.bucket, location.prefix) == (scheme, bucket, prefix)


def test_a_relative_path_is_taken_from_here(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_url("data set").prefix == str(tmp_path / "data set")
    assert parse_url(Path("data set")).prefix == str(tmp_path / "data set")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_url("~/x").prefix == str(tmp_path / "x")


@pytest.mark.parametrize("name", ["plain", "with space", "100%", "a%20b", "ümläut", "a?b#c", "a,b"])
def test_a_folders_url_opens_the_same_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "k").write_bytes(b"1")
    store = open_store(folder)
    assert [info.key for info in open_store(store.url).list()] == ["k"]
    assert [info.key for info in open_store(folder.as_uri()).list()] == ["k"]


@pytest.mark.parametrize(
    ("url", "root", "key"),
    [
        ("s3://bucket/k", "s3://bucket", "k"),
        ("s3://bucket/a/b%20c", "s3://bucket/a", "b%20c"),
        ("https://host/a/b%20c", "https://host/a", "b c"),
        ("/data/x.vtu", "file:///data", "x.vtu"),
        ("/x.vtu", "file:///", "x.vtu"),
        ("/data/100%.vtu", "file:///data", "100%.vtu"),
        ("memory://name/k", "memory://name", "k"),
    ],
)
def test_the_url_of_an_object_splits(url: str, root: str, key: str) -> None:
    assert split_url(url) == (root, key)


@pytest.mark.parametrize(
    "url", ["s3://bucket", "s3://bucket/", "https://host", "memory://name", "/"]
)
def test_a_url_without_a_key_does_not_split(url: str) -> None:
    with pytest.raises(ConfigError, match="names no object"):
        split_url(url)


@pytest.mark.parametrize("url", ["s3://", "s3:///key", "gs://", "az:///x", "http://", "https:///x"])
def test_a_missing_bucket_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"names no (bucket|host)"):
        open_store(url)


def test_an_empty_url_is_refused() -> None:
    with pytest.raises(ConfigError, match="empty URL"):
        open_store("")


def test_a_file_url_with_a_host_is_refused_and_explained() -> None:
    with pytest.raises(ConfigError, match="three slashes"):
        open_store("file://data/set")


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA:topsecret@bucket/x",
        "s3://AKIA:top/secret@bucket/x",
        "https://user:topsecret@host/x",
        "http://topsecret@host/x",
        "sftp://user:topsecret@host/x",
        "gs://topsecret@bucket/x",
        "abfs://box:topsecret@account.dfs.core.windows.net/x",
        "https://host/x?X-Amz-Signature=topsecret",
        "https://host/x#topsecret",
    ],
)
def test_secrets_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match=r"credentials|query or fragment") as caught:
        open_store(url)
    assert "topsecret" not in str(caught.value)
    assert "top/secret" not in str(caught.value)
    assert "AKIA" not in str(caught.value)


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown scheme nope://"):
        open_store("nope://bucket/x")


def test_a_scheme_whose_package_is_missing_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(protocol: str) -> type:
        raise ImportError("no module")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(MissingPackage, match=r"not installed .*paramiko"):
        open_store("sftp://host/x")


@pytest.mark.parametrize(
    ("url", "module", "words"),
    [
        ("hf://datasets/x", "huggingface_hub", "Python package huggingface_hub, which is not"),
        ("hdfs://host/x", "s3fs.core", r"Python package s3fs, which .*'\.\[s3\]'"),
    ],
)
def test_a_missing_package_is_named_with_its_extra_where_there_is_one(
    url: str, module: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(protocol: str) -> type:
        raise ImportError("advice") from ModuleNotFoundError("no", name=module)

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(MissingPackage, match=words) as caught:
        open_store(url)
    assert caught.value.exit_code == 1


def test_the_name_that_the_cache_has_for_a_store_is_refused_with_its_url() -> None:
    with pytest.raises(ConfigError) as caught:
        open_store("s3+http://127.0.0.1:45123/bucket/cars/x")
    assert (
        caught.value.hint == "write s3://bucket/cars/x with --endpoint-url http://127.0.0.1:45123"
    )


def test_azure_needs_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(ConfigError, match="AZURE_STORAGE_ACCOUNT_NAME"):
        open_store("az://container/x")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    assert open_store("az://container/x").identity == "az://account/container"


def test_identities_tell_places_apart_and_hold_no_prefix() -> None:
    config = StoreConfig(endpoint_url="http://127.0.0.1:9000/")
    places = {
        identity_of(parse_url(url), config)
        for url in ("s3://b/x", "s3://b/y", "s3://c", "gs://b", "https://b", "memory://b")
    }
    assert places == {
        "s3+http://127.0.0.1:9000/b",
        "s3+http://127.0.0.1:9000/c",
        "gs://b",
        "https://b",
        "memory://b",
    }
    assert identity_of(parse_url("s3://b/x"), StoreConfig()) == "s3://b"


def test_both_ways_to_write_an_azure_container_are_one_place(monkeypatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    long = parse_url("abfs://box@account.dfs.core.windows.net/x")
    assert identity_of(long, StoreConfig()) == identity_of(parse_url("az://box"), StoreConfig())


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"AWS_ENDPOINT_URL": "http://a/"}, "http://a"),
        ({"AWS_ENDPOINT_URL": "http://a", "AWS_ENDPOINT_URL_S3": "https://b"}, "https://b"),
    ],
)
def test_the_endpoint_comes_from_the_environment(environ, expected) -> None:
    assert s3_endpoint(StoreConfig(), environ) == expected


def test_a_given_endpoint_outranks_the_environment() -> None:
    config = StoreConfig(endpoint_url="http://given")
    assert s3_endpoint(config, {"AWS_ENDPOINT_URL_S3": "http://other"}) == "http://given"


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "s3.example.com", "ftp://host"])
def test_what_is_no_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="not an endpoint URL"):
        open_store("s3://bucket", StoreConfig(endpoint_url=endpoint))


def test_an_endpoint_with_credentials_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        open_store("s3://bucket", StoreConfig(endpoint_url="http://me:topsecret@host"))
    assert "topsecret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("s3:/bucket/cars", "s3://bucket/cars"),
        ("S3A:bucket", "s3a://bucket"),
        ("https:/host/x", "https://host/x"),
        ("file:/data", "file:///data"),
        (Path("s3://bucket/cars"), "s3://bucket/cars"),
    ],
)
def test_a_url_that_lost_a_slash_is_no_local_path(url: str | Path, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean {meant}"):
        parse_url(url)


def test_a_url_that_lost_a_slash_is_not_repeated_where_it_may_hold_a_secret() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_url("s3:/KEY:SECRET@bucket")
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("path", ["a: b", "s3", "./s3:/x", "x:y", "C:/data"])
def test_a_colon_in_a_path_is_no_scheme(path: str) -> None:
    assert parse_url(path).scheme == "file"


@pytest.mark.parametrize(
    "endpoint", ["http://", "https:///x", "http://:9000", "host:9000", "http://a b"]
)
def test_an_endpoint_needs_a_host(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="not an endpoint URL"):
        s3_endpoint(StoreConfig(endpoint_url=endpoint), {})


@pytest.mark.parametrize("endpoint", ["http://host", "https://[::1]:9000", "http://h:80/base/"])
def test_an_endpoint_may_have_a_port_and_a_path(endpoint: str) -> None:
    assert s3_endpoint(StoreConfig(endpoint_url=endpoint), {}) == endpoint.rstrip("/")


def test_a_folder_below_the_home_of_nobody_is_refused() -> None:
    with pytest.raises(ConfigError, match="'~no-such-user/x'"):
        parse_url("~no-such-user/x")
