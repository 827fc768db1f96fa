"""The embedded endpoint over TLS: the same answers, the same faults."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dataplane.errors import ConfigError, StoreError, Unavailable
from dataplane.stores import StoreConfig, open_store
from dataplane_testing.certificates import Authority
from dataplane_testing.s3 import Faults, S3Endpoint

pytest.importorskip("cryptography", reason="certificates are made with it")

_BODY = os.urandom(3_000_000)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize("in_process", [True, False])
def test_objects_are_written_listed_and_read(authority: Authority, *, in_process: bool) -> None:
    certificate = authority.issue("server")
    with S3Endpoint(in_process=in_process, certificate=certificate) as endpoint:
        assert endpoint.url.startswith("https://127.0.0.1:")
        with endpoint.exported():
            store = open_store("s3://data", StoreConfig(ca_bundle=authority.file))
            info = store.put("large", _BODY)
            store.put("small", b"content")
            assert [it.key for it in store.list()] == ["large", "small"]
            assert bytes(store.get_range("large", 5, 2_000_000)) == _BODY[5:2_000_000]
            pieces = store.stream_range("large", 0, len(_BODY), piece_bytes=1 << 20)
            assert b"".join(map(bytes, pieces)) == _BODY
            assert bytes(store.get_range("small", 0, 7)) == b"content"
            assert store.head("large").etag == info.etag
            store.close()


def test_faults_happen_over_tls_too(authority: Authority) -> None:
    certificate = authority.issue("server")
    with S3Endpoint(in_process=True, certificate=certificate) as endpoint, endpoint.exported():
        config = StoreConfig(ca_bundle=authority.file, max_attempts=1, hedge=False)
        store = open_store("s3://data", config)
        store.put("k", _BODY)
        for faults in (
            Faults(truncate_rate=1.0),
            Faults(reset_body_rate=1.0),
            Faults(reset_rate=1.0),
        ):
            endpoint.set_faults(faults)
            with pytest.raises(Unavailable):
                list(store.stream_range("k", 0, len(_BODY), piece_bytes=1 << 20))
        endpoint.set_faults(Faults(bandwidth_bytes_per_s=50e6))
        pieces = store.stream_range("k", 0, len(_BODY), piece_bytes=1 << 20)
        assert b"".join(map(bytes, pieces)) == _BODY
        store.close()


def test_a_client_that_does_not_trust_it_is_told_and_the_endpoint_goes_on(
    authority: Authority,
) -> None:
    certificate = authority.issue("server")
    with S3Endpoint(in_process=True, certificate=certificate) as endpoint, endpoint.exported():
        with pytest.raises(StoreError, match="is not trusted"):
            open_store("s3://data", StoreConfig(ca_bundle=None)).head("k")
        store = open_store("s3://data", StoreConfig(ca_bundle=authority.file))
        assert store.put("k", b"x").size_bytes == 1


def test_a_certificate_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot use the certificate"):
        S3Endpoint(in_process=True, certificate=tmp_path / "missing.pem")
