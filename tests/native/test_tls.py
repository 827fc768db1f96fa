"""`_native.TlsConnection`: what Python sees of a server's end, its pauses and its failures."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dataplane import _native
from tests.stores.tls_servers import Authority, server_context

Talk = Callable[[ssl.SSLSocket], None]
Connect = Callable[[Talk], _native.TlsConnection]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def connect(authority: Authority) -> Iterator[Connect]:
    """Connects to a server that says something over TLS on a thread, then goes without a word."""
    context = server_context(authority.issue("server"))
    threads: list[threading.Thread] = []

    def start(talk: Talk) -> _native.TlsConnection:
        ours, theirs = socket.socketpair()

        def serve() -> None:
            with theirs, context.wrap_socket(theirs, server_side=True) as server:
                talk(server)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        client = _native.TlsContext("127.0.0.1", authority.file.read_bytes())
        return _native.TlsConnection(client, ours.detach())

    yield start
    for thread in threads:
        thread.join(10)


def _until_the_end(server: ssl.SSLSocket) -> None:
    while server.recv(1000):
        pass


def test_what_is_sent_is_answered(connect: Connect) -> None:
    content = os.urandom(1_000_003)

    def answer(server: ssl.SSLSocket) -> None:
        assert server.recv(10) == b"ask"
        server.sendall(content)
        _until_the_end(server)

    connection = connect(answer)
    connection.handshake(timeout_s=10)
    assert connection.version == "TLSv1.3"
    assert "AES" in connection.cipher or "CHACHA" in connection.cipher
    assert not connection.is_resumed
    assert connection.is_kernel_tls in (True, False)
    connection.send(b"ask", pause_s=10)
    got = bytearray(len(content))
    some = connection.receive(got, pause_s=10, whole=False)
    assert 0 < some <= 1 << 14, "what has come, of one record"
    rest = memoryview(got)[some:]
    assert connection.receive(rest, pause_s=10) == len(rest)
    assert got == content
    assert connection.is_quiet()
    connection.close()
    connection.close()


def test_an_end_that_is_declared_says_how_far_it_got(connect: Connect) -> None:
    def end(server: ssl.SSLSocket) -> None:
        server.sendall(b"abc")
        server.unwrap()

    connection = connect(end)
    connection.handshake(timeout_s=10)
    got = bytearray(10)
    assert connection.receive(got, pause_s=10) == 3
    assert bytes(got) == b"abc" + bytes(7)
    assert not connection.is_quiet()
    connection.close()


def test_an_end_that_is_not_declared_is_a_broken_connection(connect: Connect) -> None:
    connection = connect(lambda server: server.sendall(b"abc"))
    connection.handshake(timeout_s=10)
    with pytest.raises(ConnectionResetError):
        connection.receive(bytearray(10), pause_s=10)


def test_pauses_and_misuse_are_errors(connect: Connect) -> None:
    connection = connect(_until_the_end)
    with pytest.raises(OSError, match="not connected"):
        connection.send(b"too early", pause_s=1)
    connection.handshake(timeout_s=10)
    with pytest.raises(TimeoutError):
        connection.receive(bytearray(4), pause_s=0.01)
    with pytest.raises(ValueError, match="must not be negative"):
        connection.receive(bytearray(4), pause_s=-1)
    with pytest.raises(BufferError):
        connection.receive(b"read-only", pause_s=1)  # type: ignore[arg-type]
    assert connection.receive(bytearray(), pause_s=1) == 0
    connection.close()
    with pytest.raises(OSError, match="not connected"):
        connection.receive(bytearray(4), pause_s=1)


def test_a_second_thread_is_refused_while_one_waits(connect: Connect) -> None:
    go_on = threading.Event()

    def wait(server: ssl.SSLSocket) -> None:
        assert go_on.wait(10)
        server.sendall(b"x")
        _until_the_end(server)

    connection = connect(wait)
    connection.handshake(timeout_s=10)
    got = bytearray(1)
    waiting = threading.Thread(target=connection.receive, args=(got,), kwargs={"pause_s": 10})
    waiting.start()
    refused = False
    while waiting.is_alive():
        try:
            connection.is_quiet()
        except ValueError as err:
            refused = "in use by another thread" in str(err)
            go_on.set()
    waiting.join()
    assert refused
    assert got == b"x"
    connection.close()


def test_a_server_that_is_not_trusted_is_refused(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    other = Authority(tmp_path)
    context = server_context(other.issue("server"))

    def serve() -> None:
        with theirs, pytest.raises(ssl.SSLError):
            context.wrap_socket(theirs, server_side=True)

    thread = threading.Thread(target=serve)
    thread.start()
    client = _native.TlsContext("127.0.0.1", b"")
    connection = _native.TlsConnection(client, ours.detach())
    with pytest.raises(_native.TlsFailure, match="the certificate is refused"):
        connection.handshake(timeout_s=10)
    connection.close()
    thread.join()


def test_a_context_needs_whole_certificates_and_a_host() -> None:
    text = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    with pytest.raises(_native.TlsFailure, match="the certificates to trust"):
        _native.TlsContext("127.0.0.1", text)
    with pytest.raises(_native.TlsFailure, match="name that cannot be checked"):
        _native.TlsContext("", b"")


def test_a_bad_descriptor_is_an_error() -> None:
    connection = _native.TlsConnection(_native.TlsContext("127.0.0.1", b""), -1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        connection.handshake(timeout_s=1)
