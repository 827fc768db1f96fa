"""Stores and servers that fail on purpose."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

from dataplane.stores import ObjectInfo, Store
from dataplane.stores.clients.memory import MemoryStore
from dataplane.stores.forwarder import StoreWrapper


class ScriptedStore(StoreWrapper):
    """Raises the errors it is given, one per call, then hands calls on."""

    def __init__(self, name: str, *errors: Exception, inner: Store | None = None) -> None:
        super().__init__(inner or MemoryStore(name))
        self.errors = list(errors)
        self.calls = 0

    def before_call(self) -> None:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)

    def head(self, key: str) -> ObjectInfo:
        self.before_call()
        return super().head(key)

    def get_range(self, key, start, stop, *, if_match=None):
        self.before_call()
        return super().get_range(key, start, stop, if_match=if_match)

    def put(self, key, data):
        self.before_call()
        return super().put(key, data)

    def delete(self, key: str) -> None:
        self.before_call()
        super().delete(key)

    def list_level(self, prefix: str = ""):
        self.before_call()
        return super().list_level(prefix)


class BreakingListStore(StoreWrapper):
    """Breaks off each listing after `after` keys, as often as there are errors."""

    def __init__(self, inner: Store, after: int, *errors: Exception) -> None:
        super().__init__(inner)
        self.after = after
        self.errors = list(errors)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        for number, info in enumerate(super().list(prefix)):
            if number == self.after and self.errors:
                raise self.errors.pop(0)
            yield info


@dataclass
class Request:
    """One request as it came over the wire."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Answer:
    """What to send back.

    Attributes:
        cut: close the connection after so many bytes of the body.
        is_silent: say nothing, and keep the connection open.
        keep: wait for another request on the same connection.
        raw: send this as it is.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    is_silent: bool = False
    keep: bool = False
    raw: bytes | None = None


class HttpServer:
    """A server on loopback whose answers a function makes; it logs what was asked.

    Args:
        answer: makes an answer.
        context: for TLS, or makes one for each connection; None is plain HTTP.

    Attributes:
        requests: in order.
        connections: that were accepted.
        tls: per connection over TLS, whether it resumed a session, and the name asked for.
        says_the_end: of connections over TLS, before it closes them.
    """

    def __init__(
        self,
        answer: Callable[[Request], Answer],
        context: ssl.SSLContext | Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        self._answer = answer
        self._context = context
        self.tls: list[tuple[bool, str | None]] = []
        self.says_the_end = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.requests: list[Request] = []
        self.connections = 0
        self._thread = threading.Thread(target=self._serve, name="test-http", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"{'https' if self._context else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # shutdown wakes the accept that close would leave waiting.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        for connection in self._open:
            connection.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(10)
            self.connections += 1
            try:
                connection = self._secured(connection)
            except OSError:  # the client does not trust it
                connection.close()
                continue
            while self._respond(connection):
                pass

    def _secured(self, plain: socket.socket) -> socket.socket:
        context = self._context() if callable(self._context) else self._context
        if context is None:
            return plain
        names: list[str | None] = []
        context.sni_callback = lambda _, name, __: names.append(name)
        with contextlib.ExitStack() as stack:
            stack.callback(plain.close)
            secured = context.wrap_socket(plain, server_side=True)
            stack.pop_all()
        self.tls.append((bool(secured.session_reused), names[0] if names else None))
        return secured

    def _respond(self, connection: socket.socket) -> bool:
        """Answer one request; say whether the connection is kept."""
        head = b""
        while b"\r\n\r\n" not in head:
            try:
                part = connection.recv(65536)
            except OSError:  # the client has dropped what it was sent
                part = b""
            if not part:
                connection.close()
                return False
            head += part
        lines = head.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ")
        pairs = (line.partition(":") for line in lines[1:])
        request = Request(method, path, {name.lower(): value.strip() for name, _, value in pairs})
        self.requests.append(request)
        answer = self._answer(request)
        if answer.is_silent:
            self._open.append(connection)
            return False
        headers = {"content-length": str(len(answer.body))}
        headers |= {} if answer.keep else {"connection": "close"}
        headers |= answer.headers
        text = f"HTTP/1.1 {answer.status} Whatever\r\n"
        text += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        body = b"" if method == "HEAD" else answer.body[: answer.cut]
        whole = text.encode("latin-1") + b"\r\n" + body
        keep = answer.keep
        try:
            connection.sendall(whole if answer.raw is None else answer.raw)
        except OSError:  # the client has given it up
            keep = False
        if not keep:
            if self.says_the_end and isinstance(connection, ssl.SSLSocket):
                with contextlib.suppress(OSError):
                    connection.unwrap()
            connection.close()
        return keep
