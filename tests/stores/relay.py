"""A box between client and server that looks into nothing, and breaks connections."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

__all__ = ["Relay", "relay"]

_PAUSE_S = 0.3


class Relay:
    """Hands bytes on between clients and a port of loopback, connection by connection.

    Attributes:
        cut: close a connection after so many bytes from the server; None never does.
        flip: the offset of a byte from the server to change.
        pause: where to wait a moment before the next byte from the server.
        sent: bytes from the server on the last connection that ended or is still there.
        connections: that were accepted.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.cut: int | None = None
        self.flip: int | None = None
        self.pause: int | None = None
        self.sent = 0
        self.connections = 0
        threading.Thread(target=self._accept, name="test-relay", daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            server = socket.create_connection(("127.0.0.1", self._port))
            threading.Thread(target=self._forward, args=(client, server), daemon=True).start()
            threading.Thread(target=self._back, args=(server, client), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := client.recv(65536):
                server.sendall(piece)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        at, cut, flip = 0, self.cut, self.flip
        with contextlib.suppress(OSError):
            while cut is None or at < cut:
                if at == self.pause:
                    time.sleep(_PAUSE_S)
                ends = [end for end in (cut, self.pause) if end is not None and end > at]
                piece = bytearray(server.recv(min([65536, *(end - at for end in ends)])))
                if not piece:
                    break
                if flip is not None and at <= flip < at + len(piece):
                    piece[flip - at] ^= 1
                client.sendall(piece)
                at += len(piece)
                self.sent = at
        for end in (client, server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextlib.contextmanager
def relay(port: int) -> Iterator[Relay]:
    """Stand between clients and a port of loopback."""
    box = Relay(port)
    try:
        yield box
    finally:
        box.close()
