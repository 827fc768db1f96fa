"""Servers that speak TLS, with certificates of an authority of the test's own."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane_testing.certificates import Authority

pytest.importorskip("cryptography", reason="certificates are made with it")

__all__ = ["Authority", "server_context", "tls_front"]


def server_context(certificate: Path, **settings: object) -> ssl.SSLContext:
    """Return the context of a server with this certificate; settings are its attributes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    for name, value in settings.items():
        setattr(context, name, value)
    return context


class _Front:
    """Hands on what comes over TLS to a port, and counts connections."""

    def __init__(self, certificate: Path, port: int) -> None:
        self._context = server_context(certificate)
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.connections = 0
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, name="test-tls", daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        """Answer request by request; bodies of requests are not handed on."""
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(plain)
            client = stack.enter_context(self._context.wrap_socket(plain, server_side=True))
            server = stack.enter_context(socket.create_connection(("127.0.0.1", self._port)))
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server)
            back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def tls_front(certificate: Path, port: int) -> Iterator[_Front]:
    """Serve a port of loopback over TLS, at another one."""
    front = _Front(certificate, port)
    try:
        yield front
    finally:
        front.close()
