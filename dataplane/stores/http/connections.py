"""Connection pool of one server: connections are made, kept while idle, replaced when they break.

A connection is kept as soon as the last byte of its response has been received, not when the
response is closed: that may be the garbage collector's doing, which closes the connection, too. One
that the server has closed meanwhile is found out before it is used, or when nothing of a response
comes, and another one is taken.

Thread-safe: a connection belongs to one response at a time. A forked child begins with none, and
sends nothing on its parent's.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from dataplane import _native
from dataplane.errors import ConfigError
from dataplane.finalizers import finalize
from dataplane.stores.failures import Reply
from dataplane.stores.http.channels import Channel, HttpServer, PlainChannel, TlsChannel
from dataplane.stores.http.failures import HttpFailure, broken
from dataplane.stores.http.headers import receive_head
from dataplane.stores.http.response import HttpResponse
from dataplane.weak_registry import WeakRegistry

__all__ = ["HttpConnections"]

_IDLE_S = 30.0
"""Longest idle time: after it, a device on the way may have dropped the connection silently."""


class HttpConnections:
    """A pool of connections to one server.

    Args:
        server: address of the server, and the certificates to trust.
        timeout_s: longest pause of a response.
        connect_timeout_s: longest time for a new connection, with its TLS handshake.
        max_idle: most connections to keep while they are not used.

    Raises:
        ConfigError: the server's name cannot be checked, or there are no certificates to trust.
    """

    def __init__(
        self, server: HttpServer, *, timeout_s: float, connect_timeout_s: float, max_idle: int
    ) -> None:
        self._server = server
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._max_idle = max_idle
        self._tls = _tls_context(server)
        self._idle: list[tuple[float, Channel]] = []
        self._lock = threading.Lock()
        self._closed = False
        finalize(self, _close_all, self._idle)
        _pools.add(self)

    def get(self, target: str, headers: Mapping[str, str]) -> HttpResponse:
        """Send a GET and wait for the head of its response; close the response in the end.

        Args:
            target: path and query, quoted; ASCII.
            headers: headers besides those that address the request; ASCII in one line.

        Raises:
            HttpFailure: no connection, or no response.
            UnsupportedResponse: a response or a server of another kind.
        """
        lines = [f"GET {target} HTTP/1.1", f"Host: {self._server.authority}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        request = "\r\n".join([*lines, "User-Agent: dataplane", "", ""]).encode("ascii")
        while True:
            kept = self._take()
            channel = kept or self._connect()
            try:
                channel.send(request)
                head, rest = receive_head(channel.receive_some)
                return HttpResponse(channel, head, rest, self._keep)
            except HttpFailure:
                channel.close()
                raise
            except OSError as err:
                channel.close()
                if kept is not None and isinstance(err, ConnectionError):
                    continue  # the server gave it up in the same moment
                raise broken(err) from err
            except BaseException:
                channel.close()
                raise

    def close(self) -> None:
        """Close the connections that are kept, and keep none from now on. Idempotent."""
        with self._lock:
            self._closed = True
            surplus, self._idle[:] = list(self._idle), []
        _close_all(surplus)

    def _connect(self) -> Channel:
        """Connect to any of the server's addresses: a name may stand for many machines."""
        until_s = time.monotonic() + self._connect_timeout_s
        failure: OSError | None = None
        try:
            found = socket.getaddrinfo(
                self._server.host, self._server.port, type=socket.SOCK_STREAM
            )
            for number, (*kind, _, address) in enumerate(random.sample(found, len(found))):
                left_s = (until_s - time.monotonic()) / (len(found) - number)
                if left_s <= 0:
                    break
                try:
                    return self._channel(socket.socket(*kind), address, left_s)
                except OSError as err:
                    failure = err
        except OSError as err:  # the name is not known
            failure = err
        # A time-out here counts as a refusal: no server is there.
        raise HttpFailure(Reply(None, "", "", "connect")) from failure

    def _channel(self, sock: socket.socket, address: Any, left_s: float) -> Channel:
        """Connect a socket to one address; it is closed if that fails."""
        until_s = time.monotonic() + left_s
        try:
            sock.settimeout(left_s)
            sock.connect(address)
            # A request is sent as a whole, and its last packet must not wait for the
            # acknowledgement of the handshake's.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._server.scheme == "http":
                return PlainChannel(sock, self._timeout_s)
            context = self._tls
            if context is None:  # of a forked child
                context = self._tls = _tls_context(self._server)
            assert context is not None, "https"
            return TlsChannel(context, sock, self._timeout_s, until_s - time.monotonic())
        except BaseException:
            sock.close()
            raise

    def _take(self) -> Channel | None:
        """Take the connection that was used last, if the server still has it."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                since_s, channel = self._idle.pop()
            if time.monotonic() - since_s < _IDLE_S and channel.is_quiet():
                return channel
            channel.close()

    def _keep(self, channel: Channel) -> None:
        now_s = time.monotonic()
        surplus = []
        with self._lock:
            self._idle.append((now_s, channel))  # so the oldest are in front
            most = 0 if self._closed else self._max_idle
            while self._idle and (len(self._idle) > most or now_s - self._idle[0][0] > _IDLE_S):
                surplus.append(self._idle.pop(0))
        _close_all(surplus)

    def _forget(self) -> None:
        """Close this process's ends; the parent goes on with its own."""
        self._lock = threading.Lock()
        self._tls = None  # its locks, too, may have been held
        _close_all(self._idle)


def _tls_context(server: HttpServer) -> _native.TlsContext | None:
    if server.scheme == "http":
        return None
    try:
        return _native.TlsContext(server.host, server.roots)
    except _native.TlsFailure as err:
        raise ConfigError(f"cannot use TLS with {server.host}: {err}") from err


def _close_all(idle: list[tuple[float, Channel]]) -> None:
    while idle:
        idle.pop()[1].close()


_pools: WeakRegistry[HttpConnections] = WeakRegistry()


def _after_fork_in_child() -> None:
    for pool in _pools:
        pool._forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
