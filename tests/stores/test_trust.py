"""Stores behind TLS with an authority of one's own, and certificates that are refused."""

from __future__ import annotations

import pickle
import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.errors import ConfigError, StoreError
from dataplane.stores import StoreConfig, open_store
from dataplane.stores.base import CA_VARIABLES
from dataplane.stores.trust import root_certificates, tls_context
from dataplane_testing.s3 import S3Endpoint
from tests.stores.tls_servers import Authority, tls_front


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def good(authority: Authority) -> Path:
    return authority.issue("good")


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Endpoint]:
    for name in CA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with S3Endpoint(in_process=True) as served:
        for name, value in served.environment().items():
            if "ENDPOINT" not in name:
                monkeypatch.setenv(name, value)
        served.put("data", "a/b", b"content")
        yield served


def _read(config: StoreConfig) -> bytes:
    store = open_store("s3://data", config)
    (info,) = store.list()
    assert [it.key for it in store.list_level("a/").objects] == ["a/b"]
    assert store.head("a/b") == info or store.head("a/b").etag == info.etag
    content = store.get_range(info.key, 0, 7, if_match=info.etag)
    streamed = store.stream_range(info.key, 0, 7, piece_bytes=7, if_match=info.etag)
    assert b"".join(map(bytes, streamed)) == content
    store.put("new", b"x" * 100)
    assert bytes(store.get_range("new", 0, 100)) == b"x" * 100
    store.delete("new")
    return bytes(content)


@pytest.mark.parametrize("variable", CA_VARIABLES)
def test_the_variables_of_other_tools_are_obeyed(
    endpoint: S3Endpoint,
    authority: Authority,
    good: Path,
    variable: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, str(authority.file))
    with tls_front(good, endpoint.port) as front:
        assert _read(StoreConfig(endpoint_url=front.url)) == b"content"


@pytest.mark.parametrize("is_folder", [False, True])
def test_the_setting_names_a_file_or_a_folder(
    endpoint: S3Endpoint, authority: Authority, good: Path, tmp_path: Path, *, is_folder: bool
) -> None:
    bundle = authority.file
    if is_folder:
        bundle = tmp_path / "authorities"
        bundle.mkdir()
        (bundle / "9d66eef0.0").write_bytes(authority.file.read_bytes())
        (bundle / "README").write_text("not a certificate")
    with tls_front(good, endpoint.port) as front:
        config = pickle.loads(pickle.dumps(StoreConfig(endpoint_url=front.url, ca_bundle=bundle)))
        assert _read(config) == b"content"


def test_keys_that_the_client_refuses_are_listed_over_tls_too(
    endpoint: S3Endpoint, authority: Authority, good: Path
) -> None:
    endpoint.put("data", "a//b", b"")
    with tls_front(good, endpoint.port) as front:
        config = StoreConfig(endpoint_url=front.url, ca_bundle=authority.file)
        assert [info.key for info in open_store("s3://data", config).list()] == ["a/b"]


@pytest.mark.parametrize(
    ("name", "issue", "said"),
    [
        ("unknown", {}, "is not trusted: no authority known here has signed it"),
        ("expired", {"first_day": -30, "last_day": -1}, "has expired"),
        ("early", {"first_day": 1, "last_day": 30}, "is not valid yet"),
        ("named", {"host": "other.example"}, r"is for another name: other\.example"),
    ],
)
def test_a_refused_certificate_is_said_as_such_after_one_try(
    endpoint: S3Endpoint, authority: Authority, name: str, issue: dict, said: str
) -> None:
    bundle = None if name == "unknown" else authority.file
    with tls_front(authority.issue(name, **issue), endpoint.port) as front:
        store = open_store("s3://data", StoreConfig(endpoint_url=front.url, ca_bundle=bundle))
        for number, ask in enumerate((
            lambda: store.head("a/b"),
            lambda: list(store.list()),
            store.list_level,
            lambda: store.get_range("a/b", 0, 7),
            lambda: store.put("new", b"x"),
            lambda: store.put("large", bytes(9 << 20)),
        )):  # fmt: skip
            message = f"the certificate of {front.url} {said}"
            with pytest.raises(StoreError, match=message) as caught:
                ask()
            assert not caught.value.retryable
            assert front.connections == number + 1
    if name == "unknown":
        assert "trusted are the system's; to trust" in str(caught.value)
        assert "DATAPLANE_CA_BUNDLE" in str(caught.value)


def test_a_refusal_names_the_bundle_that_is_in_force(
    endpoint: S3Endpoint,
    authority: Authority,
    good: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = Authority(tmp_path).file
    monkeypatch.setenv("AWS_CA_BUNDLE", str(other))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.file))
    said = f"trusted are the system's and {other} from AWS_CA_BUNDLE; to trust its authority"
    pytest.importorskip("s3fs")
    with tls_front(good, endpoint.port) as front:
        configs = [
            StoreConfig(endpoint_url=front.url),
            StoreConfig(storage_options={"endpoint_url": front.url}),
        ]
        for config in configs:
            with pytest.raises(StoreError, match=re.escape(said)):
                open_store("s3://data", config).head("a/b")
        with pytest.raises(StoreError, match=r"and .* from store\.ca_bundle"):
            open_store("s3://data", StoreConfig(endpoint_url=front.url, ca_bundle=other)).head(
                "a/b"
            )


def test_an_authoritys_own_certificate_serves_nobody(
    endpoint: S3Endpoint, authority: Authority
) -> None:
    with tls_front(authority.server_of_its_own(), endpoint.port) as front:
        config = StoreConfig(endpoint_url=front.url, ca_bundle=authority.file)
        with pytest.raises(StoreError, match="an authority's own, which may sign but not serve"):
            open_store("s3://data", config).head("a/b")


def test_s3fs_obeys_and_says_the_same(
    endpoint: S3Endpoint, authority: Authority, good: Path
) -> None:
    pytest.importorskip("s3fs")
    with tls_front(good, endpoint.port) as front:
        options = {"storage_options": {"endpoint_url": front.url}}
        config = StoreConfig(**options, ca_bundle=authority.file)
        assert bytes(open_store("s3://data", config).get_range("a/b", 0, 7)) == b"content"
        store = open_store("s3://data", StoreConfig(**options))
        with pytest.raises(StoreError, match="is not trusted") as caught:
            store.head("a/b")
        assert not caught.value.retryable


def test_fsspec_over_https_obeys_and_says_the_same(authority: Authority, good: Path) -> None:
    pytest.importorskip("aiohttp")
    with S3Endpoint(in_process=True, anonymous=True) as public:
        public.put("data", "k", b"content")
        with tls_front(good, public.port) as front:
            options = {"storage_options": {"block_size": 1 << 20}}
            config = StoreConfig(**options, ca_bundle=authority.file)
            store = open_store(f"{front.url}/data", config)
            assert bytes(store.get_range("k", 0, 7)) == b"content"
            store = open_store(f"{front.url}/data", StoreConfig(**options))
            with pytest.raises(StoreError, match="is not trusted") as caught:
                store.head("k")
            assert not caught.value.retryable


def test_what_is_named_must_hold_certificates(
    endpoint: S3Endpoint, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "https://127.0.0.1:1"
    missing = tmp_path / "missing.pem"
    with pytest.raises(ConfigError, match=r"missing.pem: No such file") as caught:
        open_store("s3://data", StoreConfig(endpoint_url=url, ca_bundle=missing)).head("k")
    assert "store.ca_bundle" in str(caught.value)
    empty = tmp_path / "empty.pem"
    empty.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    monkeypatch.setenv("CURL_CA_BUNDLE", str(empty))
    with pytest.raises(ConfigError, match=r"empty.pem holds no certificates") as caught:
        open_store("s3://data", StoreConfig(endpoint_url=url)).head("k")
    assert "CURL_CA_BUNDLE" in str(caught.value)
    damaged = tmp_path / "damaged.pem"
    damaged.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(ConfigError, match=r"damaged.pem"):
        open_store("s3://data", StoreConfig(endpoint_url=url, ca_bundle=damaged)).head("k")
    # A store without TLS needs none.
    assert open_store("s3://data", StoreConfig(endpoint_url=endpoint.url)).head("a/b").size_bytes


def test_the_systems_own_bundle_can_be_named() -> None:
    bundle = ssl.get_default_verify_paths().cafile
    if bundle is None:
        pytest.skip("this system has no bundle of certificates")
    config = StoreConfig(endpoint_url="https://127.0.0.1:1", ca_bundle=Path(bundle))
    assert root_certificates(config, {})
    tls_context(config)
    with pytest.raises(StoreError, match="no connection"):
        open_store("s3://data", StoreConfig(**_once(config))).head("k")


def _once(config: StoreConfig) -> dict[str, object]:
    return {
        "endpoint_url": config.endpoint_url,
        "ca_bundle": config.ca_bundle,
        "anonymous": True,
        "max_attempts": 1,
    }


@pytest.mark.parametrize("variable", CA_VARIABLES)
def test_a_file_below_the_home_of_nobody_is_refused_by_the_name_of_its_variable(
    variable: str,
) -> None:
    path = "~no-such-user/x.pem"
    with pytest.raises(ConfigError, match=f"{variable}: '{path}'") as caught:
        root_certificates(StoreConfig(), {variable: path})
    assert caught.value.hint == "write the whole path"
