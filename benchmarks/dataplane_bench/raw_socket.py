"""The ceiling of any client: presigned requests on kept sockets, received into reused memory.

Of a server over TLS it is OpenSSL that decrypts into that memory, through Python's `ssl`. Each
thread has a connection of its own.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Mapping
from urllib.parse import urlsplit

from dataplane_bench.isolated import RivalFailed
from dataplane_bench.model import CEILING_PREFIX
from dataplane_bench.signing import presigned_url

__all__ = ["RawConnections", "ceiling_name"]

_HEAD_BYTES = 4096


def ceiling_name(environment: Mapping[str, str]) -> str:
    """Return the name of this ceiling where the endpoint of an environment is the server."""
    is_tls = environment["AWS_ENDPOINT_URL"].startswith("https://")
    return CEILING_PREFIX + ("openssl" if is_tls else "socket")


class RawConnections:
    """Ranged GETs of one object of the embedded endpoint.

    Args:
        environment: variables of the endpoint.
        bucket: bucket of the object.
        key: key of the object.
        largest_bytes: length of the largest range.
    """

    def __init__(
        self, environment: Mapping[str, str], bucket: str, key: str, largest_bytes: int
    ) -> None:
        signed = urlsplit(presigned_url(environment, bucket, key))
        self._address = (signed.hostname, signed.port)
        self._head = f"GET {signed.path}?{signed.query} HTTP/1.1\r\nHost: {signed.netloc}\r\n"
        self._largest_bytes = largest_bytes
        self._tls: ssl.SSLContext | None = None
        if signed.scheme == "https":
            self._tls = ssl.create_default_context(cafile=environment["AWS_CA_BUNDLE"])
        self._local = threading.local()
        self._connections: list[socket.socket] = []

    def get(self, start: int, stop: int) -> int:
        """Receive a range and return its length.

        Raises:
            RivalFailed: the endpoint refused.
        """
        connection, memory = self._connection()
        connection.sendall(f"{self._head}Range: bytes={start}-{stop - 1}\r\n\r\n".encode())
        head = bytearray()
        while (end := head.find(b"\r\n\r\n")) < 0:
            head += connection.recv(_HEAD_BYTES)
        if not head.startswith(b"HTTP/1.1 206"):
            raise RivalFailed(f"the endpoint answered {bytes(head[:40])!r}")
        got = len(head) - end - 4
        memory[:got] = head[end + 4 :]
        while got < stop - start:
            count = connection.recv_into(memory[got : stop - start])
            if not count:
                raise RivalFailed("the endpoint broke off")
            got += count
        return got

    def close(self) -> None:
        """Close the connections of all threads, which must be done with them. Idempotent."""
        for connection in self._connections:
            connection.close()

    def _connection(self) -> tuple[socket.socket, memoryview]:
        if not hasattr(self._local, "pair"):
            connection = socket.create_connection(self._address)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                connection = self._tls.wrap_socket(
                    connection, server_hostname=str(self._address[0])
                )
            self._connections.append(connection)
            self._local.pair = (connection, memoryview(bytearray(self._largest_bytes)))
        pair: tuple[socket.socket, memoryview] = self._local.pair
        return pair
