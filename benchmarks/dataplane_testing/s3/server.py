"""The listening socket and the threads behind it: one thread a connection, up to a limit.

Blocking sockets and threads, not an event loop: a GET is one `recv`, some arithmetic and one
`sendfile` during which the interpreter is free. Over TLS each thread does its own handshake and
encrypts its bytes. Always on loopback. `close` ends every connection, waits for every thread, and
may be called from any thread but theirs.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import threading
import time
from pathlib import Path

from dataplane.errors import ConfigError
from dataplane.telemetry import logger
from dataplane_testing.s3.connection import Connection, Shared

__all__ = ["Server"]

_HOST = "127.0.0.1"
_BACKLOG = 256
_STOP_S = 5.0
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n"
    b"Connection: close\r\n\r\n"
)


class Server:
    """A server that accepts connections and serves each on its own thread.

    Args:
        shared: parts that the connections share.
        port: port on loopback; 0 takes a free one.
        certificate: file with a certificate and its key, to speak TLS with; None speaks none.

    Raises:
        ConfigError: the port or the certificate cannot be used.
    """

    def __init__(self, shared: Shared, port: int = 0, certificate: Path | None = None) -> None:
        self._shared = shared
        self._tls = None if certificate is None else _tls_context(certificate)
        self._lock = threading.Lock()
        self._connections: dict[int, tuple[Connection, threading.Thread]] = {}
        self._accepted = 0
        self._listener = socket.socket()
        try:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((_HOST, port))
            self._listener.listen(_BACKLOG)
        except OSError as err:
            self._listener.close()
            raise ConfigError(
                f"cannot listen on {_HOST}:{port}: {err.strerror}", hint="take another port, or 0"
            ) from err
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(
            target=self._accept, name=f"dp-s3-accept-{self.port}", daemon=True
        )
        self._acceptor.start()

    def close(self) -> None:
        """Stop listening, end all connections, wait for their threads. Idempotent."""
        self._shared.stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the acceptor
        self._acceptor.join(_STOP_S)
        self._listener.close()
        with self._lock:
            connections = list(self._connections.values())
        for connection, _ in connections:
            connection.interrupt()
        deadline_s = time.monotonic() + _STOP_S
        for _, thread in connections:
            thread.join(max(0.0, deadline_s - time.monotonic()))
            if thread.is_alive():
                logger.warning("%s did not end within %g s", thread.name, _STOP_S)

    def _accept(self) -> None:
        while not self._shared.stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError as err:
                if err.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    # Out of descriptors: connections wait in the backlog until some are closed.
                    self._shared.stopping.wait(0.05)
                continue
            self._admit(sock)

    def _admit(self, sock: socket.socket) -> None:
        with self._lock:
            full = len(self._connections) >= self._shared.service.limits.connections
            self._accepted += 1
            number = self._accepted
        if full or self._shared.stopping.is_set():
            with contextlib.suppress(OSError), sock:
                sock.setblocking(False)
                if self._tls is None:
                    sock.send(_BUSY)
                sock.shutdown(socket.SHUT_WR)
            return
        connection = Connection(sock, number, self._shared, self._tls)
        thread = threading.Thread(
            target=self._serve,
            args=(number, connection),
            name=f"dp-s3-{self.port}-{number}",
            daemon=True,
        )
        with self._lock:
            self._connections[number] = (connection, thread)
        thread.start()

    def _serve(self, number: int, connection: Connection) -> None:
        try:
            connection.serve()
        finally:
            with self._lock:
                self._connections.pop(number, None)


def _tls_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate)
    except OSError as err:
        raise ConfigError(f"cannot use the certificate {certificate}: {err}") from err
    return context
