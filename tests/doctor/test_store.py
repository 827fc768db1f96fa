"""Checks of a store: against the embedded S3 endpoint, and servers with other clocks or none."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from email.utils import formatdate
from pathlib import Path

import pytest

from dataplane.cli.checks import server, store
from dataplane.cli.checks.once import Once
from dataplane.errors import BucketNotFound, ConfigError, Denied, StoreError, Timeout, Unavailable
from dataplane.stores.base import CA_VARIABLES, StoreConfig
from dataplane.stores.clients.access import Access
from dataplane_testing.s3 import S3Endpoint
from tests.stores.fakes import Answer, HttpServer

SECRET = "TOPSECRETTOPSECRET"
CONFIG = StoreConfig()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[S3Endpoint]:
    with S3Endpoint(in_process=True, buckets=("data", "empty")) as running:
        running.put("data", "cars/a.bin", b"hello")
        running.put("data", "void/nothing", b"")
        yield running


@pytest.fixture
def reached(endpoint: S3Endpoint, monkeypatch: pytest.MonkeyPatch) -> S3Endpoint:
    """The endpoint, with the environment that leads there."""
    for name, value in endpoint.environment().items():
        monkeypatch.setenv(name, value)
    return endpoint


def told(ahead_s: float | None, took_s: float = 0.1) -> server.ServerAnswer:
    return server.ServerAnswer("https://s3", 403, took_s, ahead_s)


# Reading.


def test_a_store_is_listed_and_a_byte_of_it_read(reached: S3Endpoint) -> None:
    before = len(reached.requests())
    found = store.reading("s3://data/cars", CONFIG)
    assert found.status == "ok", found
    assert "listed, and a byte read" in found.found
    assert "a.bin, 5 B" in found.found
    asked = [record.operation for record in reached.requests()[before:]]
    assert asked == ["ListObjectsV2", "GetObject"]


def test_an_empty_object_needs_no_read_and_one_object_is_described(reached: S3Endpoint) -> None:
    assert store.reading("s3://data/void", CONFIG).found.startswith("listed (")
    assert store.reading("s3://data/cars/a.bin", CONFIG).found == "it is one object, 5 B"


@pytest.mark.parametrize("url", ["s3://data/nowhere", "s3://empty"])
def test_nothing_below_a_url_is_a_warning(reached: S3Endpoint, url: str) -> None:
    found = store.reading(url, CONFIG)
    assert (found.status, "nothing below" in found.found) == ("warn", True)


def test_a_wrong_secret_is_told_by_its_reason_and_not_shown(
    reached: S3Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with pytest.raises(Denied, match="the secret key is wrong") as caught:
        store.reading("s3://data/cars", CONFIG)
    assert SECRET not in str(caught.value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", reached.secret_key)
    with pytest.raises(BucketNotFound):
        store.reading("s3://no-such-bucket/x", CONFIG)


def test_a_folder_and_a_web_server_can_be_read_too(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    assert store.reading(str(tmp_path), CONFIG).status == "ok"
    assert store.reading(None, CONFIG).status == "skip"

    def answer(request: object) -> Answer:
        is_there = getattr(request, "path", "").endswith("/file")
        return Answer(headers={"content-length": "7"}) if is_there else Answer(404)

    with HttpServer(answer) as web:
        assert "file, 7 B" in store.reading(f"{web.url}/x/file", CONFIG).found
        assert store.reading(f"{web.url}/x/none", CONFIG).status == "warn"


def test_a_server_that_is_silent_is_given_up_soon() -> None:
    with HttpServer(lambda _: Answer(is_silent=True)) as silent:
        config = StoreConfig(
            endpoint_url=silent.url, anonymous=True, timeout_s=0.3, metadata_deadline_s=0.6
        )
        with pytest.raises(Timeout):
            store.reading("s3://data/x", config)


# The server and its clock.


def test_the_server_is_asked_without_credentials_and_says_its_time(reached: S3Endpoint) -> None:
    answer = server.ask_server(reached.url, CONFIG)
    assert answer.status == 403
    assert answer.ahead_s is not None
    assert abs(answer.ahead_s) <= 1 + answer.took_s
    found = server.endpoint(reached.url, lambda: answer)
    assert (found.status, "HTTP 403" in found.found) == ("ok", True)
    assert server.clock(reached.url, lambda: answer, is_signed=True).status == "ok"


def test_no_header_of_the_question_holds_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", SECRET)
    with HttpServer(lambda _: Answer()) as plain:
        server.ask_server(plain.url, CONFIG)
        (request,) = plain.requests
    assert (request.method, request.path) == ("HEAD", "/")
    assert SECRET not in repr(request)


@pytest.mark.parametrize(("hours", "words"), [(1, "behind"), (-1, "ahead")])
def test_a_server_with_another_clock_is_told_from_its_date(hours: int, words: str) -> None:
    def dated(_: object) -> Answer:
        return Answer(headers={"Date": formatdate(time.time() + hours * 3600, usegmt=True)})

    with HttpServer(dated) as skewed:
        answer = server.ask_server(skewed.url, CONFIG)
        found = server.clock(skewed.url, lambda: answer, is_signed=True)
    assert found.status == "fail"
    assert "1 h 00 min" in found.found or "59 min" in found.found
    assert words in found.found
    assert "timedatectl" in found.advice


@pytest.mark.parametrize(
    ("ahead_s", "is_signed", "status"),
    [
        (0.4, True, "ok"),
        (-0.9, True, "ok"),
        (20.0, True, "ok"),
        (61.0, True, "warn"),
        (-300.0, True, "warn"),
        (899.5, True, "fail"),
        (-7200.0, True, "fail"),
        (7200.0, False, "warn"),
        (None, True, "skip"),
    ],
)
def test_clocks_may_differ_by_less_than_signatures_hold(
    ahead_s: float | None, is_signed: bool, status: str
) -> None:
    found = server.clock("https://s3", lambda: told(ahead_s), is_signed=is_signed)
    assert found.status == status


@pytest.mark.parametrize("date", [None, "yesterday", "Sun, 99 Nov 2026 08:49:37 GMT"])
def test_a_server_without_a_readable_date_is_no_failure(date: str | None) -> None:
    headers = {} if date is None else {"Date": date}
    with HttpServer(lambda _: Answer(headers=headers)) as odd:
        assert server.ask_server(odd.url, CONFIG).ahead_s is None


def test_a_server_that_fails_itself_is_a_warning() -> None:
    with HttpServer(lambda _: Answer(503)) as failing:
        found = server.endpoint(failing.url, lambda: server.ask_server(failing.url, CONFIG))
    assert (found.status, "HTTP 503" in found.found) == ("warn", True)


def test_servers_that_cannot_be_reached_say_why() -> None:
    with pytest.raises(Unavailable, match="Connection refused"):
        server.ask_server("http://127.0.0.1:9", CONFIG)
    with (
        HttpServer(lambda _: Answer(is_silent=True)) as silent,
        pytest.raises(Timeout, match="does not answer"),
    ):
        server.ask_server(silent.url, CONFIG, timeout_s=0.2)
    with (
        HttpServer(lambda _: Answer(raw=b"SSH-2.0-server\r\n")) as other,
        pytest.raises(Unavailable, match="cannot be reached"),
    ):
        server.ask_server(other.url, CONFIG)


def test_a_name_that_nothing_knows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(Unavailable, match="its name is not known here"):
        server.ask_server("http://nowhere.invalid", CONFIG)


def test_a_certificate_that_is_not_trusted_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cryptography", reason="certificates are made with it")
    from tests.stores.tls_servers import Authority, server_context

    for name in CA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    authority = Authority(tmp_path)
    context = server_context(authority.issue("here"))
    with HttpServer(lambda _: Answer(), context) as secured:
        with pytest.raises(StoreError, match="is not trusted: no authority known here"):
            server.ask_server(secured.url, CONFIG)
        trusting = StoreConfig(ca_bundle=authority.file)
        assert server.ask_server(secured.url, trusting).status == 200
    found = store.certificates(trusting)
    assert (found.status, found.values["added"]) == ("ok", 1)


def test_the_server_is_asked_once_for_all_checks() -> None:
    calls: list[int] = []

    def ask() -> server.ServerAnswer:
        calls.append(1)
        raise Unavailable("gone")

    once = Once(ask)
    for _ in range(3):
        with pytest.raises(Unavailable):
            once()
    assert calls == [1]
    assert server.clock("https://s3", once, is_signed=True).status == "skip"
    answering = Once(lambda: told(0.0))
    assert answering() is answering()


@pytest.mark.parametrize(
    ("url", "environ", "address"),
    [
        (None, {}, None),
        (None, {"AWS_ENDPOINT_URL": "http://here:9000"}, "http://here:9000"),
        ("s3://b/x", {"AWS_ENDPOINT_URL": "http://here:9000/"}, "http://here:9000"),
        ("s3://b/x", {"AWS_REGION": "eu-west-1"}, "https://s3.eu-west-1.amazonaws.com"),
        ("s3://b/x", {"AWS_REGION": "cn-north-1"}, "https://s3.cn-north-1.amazonaws.com.cn"),
        ("gs://b/x", {}, "https://storage.googleapis.com"),
        ("https://host:8443/x", {}, "https://host:8443"),
        ("abfs://c@acc.dfs.core.windows.net/x", {}, "https://acc.blob.core.windows.net"),
        ("/some/folder", {}, None),
        ("sftp://host/x", {}, None),
    ],
)
def test_the_server_of_a_url_is_known(
    url: str | None, environ: Mapping[str, str], address: str | None
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    assert server.server_of(url, CONFIG, {**keys, **environ}) == address


def test_what_has_no_server_is_skipped() -> None:
    def never() -> server.ServerAnswer:
        raise AssertionError

    assert server.endpoint(None, never).advice.startswith("name one")
    assert server.endpoint(None, never, asked="/data").found.startswith("/data has no server")
    assert server.clock(None, never, is_signed=True).status == "skip"


# Credentials and certificates.


def given(kind: str, origin: str = "", **changes: str) -> Callable[..., Access]:
    return lambda *_: Access("mars", "x", kind, origin, **changes)


@pytest.mark.parametrize(
    ("environ", "access", "status", "words"),
    [
        (
            {"AWS_SECRET_ACCESS_KEY": SECRET},
            given("keys", "AWS_ACCESS_KEY_ID"),
            *("ok", "keys, from AWS_ACCESS_KEY_ID; region mars"),
        ),
        ({}, given("keys", "AWS_ACCESS_KEY_ID"), "fail", "AWS_SECRET_ACCESS_KEY is not"),
        (
            {"AWS_WEB_IDENTITY_TOKEN_FILE": "/no/token"},
            given("a web identity token", "AWS_WEB_IDENTITY_TOKEN_FILE"),
            *("fail", "/no/token: No such file"),
        ),
        ({}, given("single sign-on", "profile lab"), "ok", "single sign-on, from profile lab"),
        ({}, given("not found: there is no such profile", "profile x"), "warn", "no such profile"),
        ({}, given("none found; on a cloud instance …"), "warn", "none found"),
        ({}, given("x", endpoint_error="no URL"), "fail", "endpoint cannot be used: no URL"),
    ],
)
def test_the_origin_of_s3_credentials_is_told_and_no_secret(
    environ: dict[str, str], access: Callable[..., Access], status: str, words: str
) -> None:
    found = store.credentials("s3://b/x", CONFIG, "", environ, access)
    assert (found.status, words in found.found) == (status, True), found
    assert SECRET not in repr(found)


def test_credentials_are_found_as_the_client_finds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    files = Path(os.environ["AWS_SHARED_CREDENTIALS_FILE"])
    files.write_text(f"[default]\naws_access_key_id = {SECRET}\naws_secret_access_key = {SECRET}\n")
    pytest.importorskip("botocore")
    found = store.credentials("s3://b/x", CONFIG)
    assert (found.status, "keys in the credentials file" in found.found) == ("ok", True)
    assert SECRET not in repr(found)
    files.unlink()
    assert store.credentials(None, CONFIG).status == "skip"
    assert store.credentials("s3://b/x", CONFIG).status == "warn"
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert store.credentials(None, CONFIG).status == "warn"


@pytest.mark.parametrize(
    ("url", "environ", "status", "words"),
    [
        ("gs://b", {"GOOGLE_APPLICATION_CREDENTIALS": SECRET}, "ok", "GOOGLE_APPLICATION"),
        ("az://c", {"AZURE_STORAGE_ACCOUNT_KEY": SECRET}, "ok", "from AZURE_STORAGE_ACCOUNT_KEY"),
        ("abfs://c@a.dfs.core.windows.net", {}, "warn", "Azure: none found"),
        ("https://host/x", {}, "skip", "https://"),
        ("/folder", {}, "skip", "file://"),
    ],
)
def test_credentials_of_other_stores_are_named_by_their_variable(
    url: str, environ: dict[str, str], status: str, words: str
) -> None:
    found = store.credentials(url, CONFIG, "", environ)
    assert (found.status, words in found.found) == (status, True)
    assert SECRET not in repr(found)


def test_anonymous_needs_none_and_signs_nothing() -> None:
    anonymous = StoreConfig(anonymous=True)
    assert store.credentials("s3://b", anonymous).status == "ok"
    assert not store.is_signed("s3://b", anonymous)
    assert store.is_signed("s3://b", CONFIG)
    assert not store.is_signed("https://host/x", CONFIG)


def test_a_bundle_that_cannot_be_used_is_the_error(tmp_path: Path) -> None:
    for environ in ({"AWS_CA_BUNDLE": str(tmp_path / "none.pem")},):
        with pytest.raises(ConfigError, match="AWS_CA_BUNDLE"):
            store.certificates(CONFIG, environ)


def test_a_system_without_authorities_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bare() -> ssl.SSLContext:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    real = ssl.get_default_verify_paths()
    monkeypatch.setattr(
        ssl, "get_default_verify_paths", lambda: real._replace(capath=None, cafile=None)
    )
    found = store.certificates(CONFIG, {}, bare)
    assert (found.status, "ca-certificates" in found.advice) == ("warn", True)
    monkeypatch.undo()
    assert store.certificates(CONFIG, {}).status in {"ok", "warn"}
