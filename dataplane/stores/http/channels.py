"""Channels: one connection to a server, with TLS or without, that sends and receives bytes.

A whole piece of a body is received with one native call that holds no lock of the interpreter, and
goes straight into memory of the caller's choice. With TLS the system's OpenSSL decrypts it there.

The certificate is verified against the authorities that `trust` names. One that is refused makes
the server an `UnsupportedResponse`, as does all else that TLS fails with: nothing was sent, and the
client library, which has a TLS of its own, decides and finds the words for it.

A channel belongs to one thread at a time. A forked child may only close it, which sends nothing.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from dataplane import _native
from dataplane.stores.http.failures import UnsupportedResponse
from dataplane.telemetry import logger

__all__ = ["PORTS", "Channel", "HttpServer", "PlainChannel", "TlsChannel"]

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class HttpServer:
    """A server of HTTP/1.1.

    Attributes:
        scheme: `http` or `https`.
        host: name or address of the server.
        port: port of the server.
        roots: certificates to trust besides the system's, as PEM; for `https`.
    """

    scheme: str
    host: str
    port: int
    roots: bytes = b""

    @property
    def authority(self) -> str:
        """Value of the Host header."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == PORTS[self.scheme] else f"{name}:{self.port}"


class Channel(Protocol):
    """A connection to a server.

    Its calls raise OSError; TimeoutError where nothing came for too long.
    """

    def send(self, request: bytes) -> None:
        """Send all of the bytes."""
        ...

    def receive_some(self, most: int) -> bytes:
        """Return at most `most` bytes, as soon as there are some; none at the end."""
        ...

    def receive(self, memory: memoryview) -> int:
        """Fill `memory` with the next bytes; return how many came before the end."""
        ...

    def is_quiet(self) -> bool:
        """Whether the server still has the connection, and has sent nothing unasked."""
        ...

    def close(self) -> None:
        """Close the connection. Idempotent; may be called by a finalizer."""
        ...


class PlainChannel:
    """A channel over a socket.

    Args:
        sock: connected socket.
        timeout_s: longest pause.
    """

    def __init__(self, sock: socket.socket, timeout_s: float) -> None:
        sock.settimeout(timeout_s)
        self._sock = sock
        self._timeout_s = timeout_s

    def send(self, request: bytes) -> None:
        self._sock.sendall(request)

    def receive_some(self, most: int) -> bytes:
        return self._sock.recv(most)

    def receive(self, memory: memoryview) -> int:
        return _native.receive(self._sock.fileno(), memory, pause_s=self._timeout_s)

    def is_quiet(self) -> bool:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        self._sock.close()


class TlsChannel:
    """A channel over TLS, whose handshake is done.

    Args:
        context: TLS context of the server.
        sock: connected socket; taken over, also on failure.
        timeout_s: longest pause.
        handshake_timeout_s: time for the handshake.

    Raises:
        OSError: the handshake broke off, or took too long.
        UnsupportedResponse: the certificate is refused, or there is no TLS that both sides speak.
    """

    def __init__(
        self,
        context: _native.TlsContext,
        sock: socket.socket,
        timeout_s: float,
        handshake_timeout_s: float,
    ) -> None:
        self._timeout_s = timeout_s
        self._connection = _native.TlsConnection(context, sock.detach())
        try:
            self._connection.handshake(timeout_s=max(0.0, handshake_timeout_s))
        except _native.TlsFailure as err:
            self.close()
            raise UnsupportedResponse(f"TLS: {err}") from err
        except BaseException:
            self.close()
            raise
        agreed = self._connection
        logger.debug(
            "%s, %s, a session resumed: %s, decrypted by the kernel: %s",
            *(agreed.version, agreed.cipher, agreed.is_resumed, agreed.is_kernel_tls),
        )

    def send(self, request: bytes) -> None:
        with _tls_is_whole():
            self._connection.send(request, pause_s=self._timeout_s)

    def receive_some(self, most: int) -> bytes:
        memory = bytearray(most)
        with _tls_is_whole():
            got = self._connection.receive(memory, pause_s=self._timeout_s, whole=False)
        return bytes(memoryview(memory)[:got])

    def receive(self, memory: memoryview) -> int:
        with _tls_is_whole():
            return self._connection.receive(memory, pause_s=self._timeout_s)

    def is_quiet(self) -> bool:
        return self._connection.is_quiet()

    def close(self) -> None:
        self._connection.close()


@contextlib.contextmanager
def _tls_is_whole() -> Iterator[None]:
    """Report a failure of TLS behind the handshake as a broken connection."""
    try:
        yield
    except _native.TlsFailure as err:
        raise ConnectionError(f"TLS: {err}") from err
