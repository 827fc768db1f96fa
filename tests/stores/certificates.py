"""Certificates of an authority of the test's own, and a front that speaks TLS for a server."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Authority", "server_context", "tls_front"]


class Authority:
    """Signs certificates of servers; its own is in `file`."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        pytest.importorskip("cryptography", reason="certificates are made with it")
        from cryptography.hazmat.primitives.asymmetric import ec

        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._name = name
        self._curve = ec.SECP256R1()
        self._key = ec.generate_private_key(self._curve)
        self.file = folder / f"{name}.pem"
        itself = self._sign(name, self._key, host="127.0.0.1", is_authority=True)
        self.file.write_bytes(itself)

    def issue(
        self, name: str, *, host: str | None = "127.0.0.1", first_day: int = -1, last_day: int = 30
    ) -> Path:
        """Return a file with the certificate and the key of a server."""
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(self._curve)
        path = self._folder / f"{self._name}-{name}.pem"
        certificate = self._sign(name, key, host=host, days=(first_day, last_day))
        path.write_bytes(certificate + _secret(key))
        return path

    def server_of_its_own(self) -> Path:
        """Return a file with the authority's own certificate and key."""
        path = self._folder / f"{self._name}-itself.pem"
        path.write_bytes(self.file.read_bytes() + _secret(self._key))
        return path

    def _sign(
        self,
        name: str,
        key: Any,
        *,
        host: str | None = None,
        days: tuple[int, int] = (-1, 30),
        is_authority: bool = False,
    ) -> bytes:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization

        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_named(x509, name))
            .issuer_name(_named(x509, self._name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=days[0]))
            .not_valid_after(now + datetime.timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if host is not None:
            try:
                names: Any = x509.IPAddress(ipaddress.ip_address(host))
            except ValueError:
                names = x509.DNSName(host)
            builder = builder.add_extension(x509.SubjectAlternativeName([names]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM)


def _secret(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _named(x509: Any, name: str) -> Any:
    return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])


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
