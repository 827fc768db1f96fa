"""Streams over TLS past the client library: whom they trust, how they resume, how they break.

`_is_ours` tells our requests from the library's, which stands in for every stream that we give up.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
import warnings
from pathlib import Path

import pytest

from dataplane.errors import StoreError, Unavailable
from dataplane.stores import StoreConfig, open_store
from dataplane.stores.base import CA_VARIABLES
from dataplane.stores.http.channels import HttpServer as Server
from dataplane.stores.http.connections import HttpConnections
from dataplane.stores.http.failures import HttpFailure, UnsupportedResponse
from dataplane_testing.s3 import S3Endpoint
from tests.servers.s3 import S3Bucket
from tests.stores.conftest import Serve
from tests.stores.fakes import Answer, HttpServer, Request
from tests.stores.ranged import BODY, ONCE, good, stream
from tests.stores.relay import relay
from tests.stores.tls_servers import Authority, server_context, tls_front

_TLS_1_2 = {"maximum_version": ssl.TLSVersion.TLSv1_2}
_REFUSALS = [
    ("unknown", {}, "unable to get local issuer certificate|self-signed"),
    ("expired", {"first_day": -30, "last_day": -1}, "certificate has expired"),
    ("early", {"first_day": 1, "last_day": 30}, "certificate is not yet valid"),
    ("named", {"host": "other.example"}, "IP address mismatch"),
    ("addressed", {"host": "127.0.0.2"}, "IP address mismatch"),
    ("unnamed", {"host": None}, "IP address mismatch"),
]


def _is_ours(request: Request) -> bool:
    return "accept" not in request.headers


def _pool(server: HttpServer, roots: bytes, host: str = "127.0.0.1") -> HttpConnections:
    limits = {"timeout_s": 10.0, "connect_timeout_s": 10.0, "max_idle": 8}
    return HttpConnections(Server("https", host, server.port, roots), **limits)


def _get(pool: HttpConnections) -> bytes:
    response = pool.get("/k", {"Range": f"bytes=0-{len(BODY) - 1}"})
    memory = bytearray(response.length)
    assert response.read_into(memoryview(memory)) == len(memory)
    response.close()
    return bytes(memory)


def test_bytes_arrive_past_the_library_in_any_pieces(secure: Serve) -> None:
    with secure(good) as server:
        store = open_store(server.url, ONCE)
        for start, stop, piece_bytes in ((0, len(BODY), 1 << 22), (1, 70_003, 1000), (5, 6, 1)):
            assert stream(store, start, stop, piece_bytes) == BODY[start:stop]
        store.close()
    assert all(map(_is_ours, server.requests))
    assert server.connections == 1


def test_signed_streams_of_a_bucket_arrive(trusted: Authority, secure: Serve) -> None:
    with S3Endpoint(in_process=True) as endpoint, endpoint.exported():
        endpoint.put("data", "a b", BODY)
        with tls_front(trusted.issue("bucket"), endpoint.port) as front:
            config = StoreConfig(endpoint_url=front.url, ca_bundle=trusted.file, hedge=False)
            store = open_store("s3://data", config)
            tag = store.head("a b").etag
            endpoint.clear_requests()
            pieces = store.stream_range("a b", 3, len(BODY), piece_bytes=1 << 20, if_match=tag)
            assert b"".join(map(bytes, pieces)) == BODY[3:]
            assert [record.status for record in endpoint.requests()] == [206]
            store.close()


@pytest.mark.ceph
def test_streams_of_a_real_server_behind_tls_arrive(
    s3_bucket: S3Bucket, trusted: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_bucket.server.environ().items():
        if "ENDPOINT" not in name:
            monkeypatch.setenv(name, value)
    port = int(s3_bucket.server.endpoint.rpartition(":")[2])
    with tls_front(trusted.issue("real"), port) as front:
        config = StoreConfig(endpoint_url=front.url, ca_bundle=trusted.file, hedge=False)
        store = open_store(s3_bucket.url, config)
        tag = store.put("k", BODY).etag
        pieces = store.stream_range("k", 1, len(BODY), piece_bytes=1 << 20, if_match=tag)
        assert b"".join(map(bytes, pieces)) == BODY[1:]
        store.close()


@pytest.mark.parametrize(("name", "issue", "reason"), _REFUSALS)
def test_a_certificate_that_is_refused_gets_no_request(
    trusted: Authority, name: str, issue: dict, reason: str
) -> None:
    roots = b"" if name == "unknown" else trusted.file.read_bytes()
    with HttpServer(good, server_context(trusted.issue(name, **issue))) as server:
        pool = _pool(server, roots)
        with pytest.raises(UnsupportedResponse, match=f"the certificate is refused: .*({reason})"):
            _get(pool)
        pool.close()
    assert (server.connections, server.requests) == (1, [])


@pytest.mark.parametrize(("name", "issue", "reason"), _REFUSALS)
def test_a_refused_certificate_is_said_in_the_librarys_words(
    trusted: Authority, name: str, issue: dict, reason: str
) -> None:
    def said(*, direct: bool) -> str:
        bundle = None if name == "unknown" else trusted.file
        config = StoreConfig(max_attempts=2, hedge=False, direct=direct, ca_bundle=bundle)
        with pytest.raises(StoreError, match="the certificate") as caught:
            stream(open_store(server.url, config))
        assert not caught.value.retryable
        return str(caught.value)

    with HttpServer(good, server_context(trusted.issue(name, **issue))) as server:
        assert said(direct=True) == said(direct=False)
    assert server.requests == []


def test_an_authoritys_own_certificate_is_refused(trusted: Authority) -> None:
    with HttpServer(good, server_context(trusted.server_of_its_own())) as server:
        pool = _pool(server, trusted.file.read_bytes())
        with pytest.raises(UnsupportedResponse, match="refused: an authority's own"):
            _get(pool)
        pool.close()
        config = StoreConfig(max_attempts=1, hedge=False, ca_bundle=trusted.file)
        with pytest.raises(StoreError, match="an authority's own, which may sign but not serve"):
            stream(open_store(server.url, config))
    assert server.requests == []


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_names_are_asked_for_and_addresses_are_not(trusted: Authority, host: str) -> None:
    context = server_context(trusted.issue(host, host=host))
    with HttpServer(good, context) as server:
        pool = _pool(server, trusted.file.read_bytes(), host)
        assert _get(pool) == BODY
        pool.close()
    assert server.tls == [(False, None if host == "127.0.0.1" else host)]


@pytest.mark.parametrize("variable", CA_VARIABLES)
def test_authorities_that_variables_name_are_trusted(
    trusted: Authority, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in CA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(trusted.file))
    with HttpServer(good, server_context(trusted.issue("good"))) as server:
        store = open_store(server.url, ONCE)
        assert stream(store) == BODY
        store.close()
    assert all(map(_is_ours, server.requests))


def test_authorities_in_a_folder_that_is_set_are_trusted(
    trusted: Authority, tmp_path: Path
) -> None:
    Authority(tmp_path, "first")
    (tmp_path / "9d66eef0.0").write_bytes(trusted.file.read_bytes())
    with HttpServer(good, server_context(trusted.issue("good"))) as server:
        config = StoreConfig(max_attempts=1, hedge=False, ca_bundle=tmp_path)
        store = open_store(server.url, config)
        assert stream(store) == BODY
        store.close()
    assert all(map(_is_ours, server.requests))


@pytest.mark.parametrize("settings", [{}, _TLS_1_2])
def test_the_next_connection_resumes_the_session(trusted: Authority, settings: dict) -> None:
    """Also behind one that the server cut off, which is how most end."""
    context = server_context(trusted.issue("good"), **settings)
    with HttpServer(lambda request: good(request, keep=False), context) as server:
        pool = _pool(server, trusted.file.read_bytes())
        for _ in range(3):
            assert _get(pool) == BODY
        pool.close()
    assert [is_resumed for is_resumed, _ in server.tls] == [False, True, True]


@pytest.mark.parametrize("settings", [{}, _TLS_1_2])
def test_a_session_that_the_server_forgot_is_made_anew(trusted: Authority, settings: dict) -> None:
    certificate = trusted.issue("good")

    def context() -> ssl.SSLContext:
        return server_context(certificate, **settings)

    with HttpServer(lambda request: good(request, keep=False), context) as server:
        pool = _pool(server, trusted.file.read_bytes())
        for _ in range(3):
            assert _get(pool) == BODY
        pool.close()
    assert [is_resumed for is_resumed, _ in server.tls] == [False, False, False]


def test_a_server_with_nothing_newer_than_tls_1_1_is_refused_in_words(trusted: Authority) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context = server_context(trusted.issue("old"))
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
    with HttpServer(good, context) as server:
        pool = _pool(server, trusted.file.read_bytes())
        with pytest.raises(UnsupportedResponse, match=r"TLS: .*protocol"):
            _get(pool)
        config = StoreConfig(max_attempts=1, hedge=False, ca_bundle=trusted.file)
        with pytest.raises(StoreError, match=r"no version of TLS") as caught:
            stream(open_store(server.url, config))
        assert not caught.value.retryable
    assert server.requests == []


def test_an_endpoint_without_tls_is_left_to_the_library() -> None:
    def refuse() -> None:
        client, _ = listener.accept()
        with client:
            client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            client.recv(65536)

    limits = {"timeout_s": 10.0, "connect_timeout_s": 10.0, "max_idle": 8}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=refuse)
        server.start()
        pool = HttpConnections(Server("https", *listener.getsockname()), **limits)
        with pytest.raises(UnsupportedResponse, match="TLS: wrong version number"):
            pool.get("/k", {})
        server.join()


@pytest.mark.parametrize("notice", [False, True])
def test_a_body_that_ends_early_is_never_taken_for_whole(
    trusted: Authority, secure: Serve, *, notice: bool
) -> None:
    """Whether the server declares the end (close_notify) or just goes."""

    def cut(request: Request) -> Answer:
        answer = good(request, keep=False)
        answer.cut = 100_000
        return answer

    with secure(cut) as server:
        server.says_the_end = notice
        with pytest.raises(Unavailable, match="the connection broke"):
            stream(open_store(server.url, ONCE))
    assert list(map(_is_ours, server.requests)) == [True]


@pytest.mark.parametrize("cut", [0, 300, 3000, 5000, 1_000_000])
def test_a_box_between_that_closes_is_a_broken_connection(secure: Serve, cut: int) -> None:
    """Before the handshake is done, in the head, and in the middle of a record."""
    with secure(good) as server, relay(server.port) as box:
        box.cut = cut
        store = open_store(f"https://127.0.0.1:{box.port}", ONCE)
        with pytest.raises(Unavailable):
            stream(store)
        box.cut = None
        assert stream(store) == BODY
        store.close()
    assert all(map(_is_ours, server.requests))


def test_a_record_that_comes_in_two_halves_is_not_waited_for_in_vain(trusted: Authority) -> None:
    """Of the bytes that are still wanted some are here already, and cannot come any more."""
    with (
        HttpServer(good, server_context(trusted.issue("good"))) as server,
        relay(server.port) as box,
    ):
        for _ in range(2):
            limits = {"timeout_s": 10.0, "connect_timeout_s": 10.0, "max_idle": 8}
            address = Server("https", "127.0.0.1", box.port, trusted.file.read_bytes())
            pool = HttpConnections(address, **limits)
            begun_s = time.monotonic()
            response = pool.get("/k", {"Range": "bytes=0-19999"})
            memory = bytearray(20_000)
            assert response.read_into(memoryview(memory)) == len(memory)
            assert memory == BODY[:20_000]
            pool.close()
            box.pause = box.sent - 3000
        assert time.monotonic() - begun_s < 5


def test_a_changed_byte_is_a_broken_connection_and_never_data(secure: Serve) -> None:
    with secure(good) as server, relay(server.port) as box:
        box.flip = 1_000_000
        store = open_store(f"https://127.0.0.1:{box.port}", ONCE)
        with pytest.raises(Unavailable, match="the connection broke"):
            stream(store)
        box.flip = None
        assert stream(store) == BODY
        store.close()


def test_a_server_that_never_begins_the_handshake_is_given_up(trusted: Authority) -> None:
    with HttpServer(lambda _: Answer(is_silent=True)) as server:
        limits = {"timeout_s": 10.0, "connect_timeout_s": 0.3, "max_idle": 8}
        silent = Server("https", "127.0.0.1", server.port)
        pool = HttpConnections(silent, **limits)
        begun_s = time.monotonic()
        with pytest.raises(HttpFailure, match="connect"):
            pool.get("/k", {})
        assert time.monotonic() - begun_s < 5
        pool.close()


def test_it_can_be_switched_off(secure: Serve) -> None:
    with secure(lambda request: good(request, keep=False)) as server:
        config = StoreConfig(max_attempts=1, hedge=False, direct=False)
        assert stream(open_store(server.url, config)) == BODY
    assert not any(map(_is_ours, server.requests))
