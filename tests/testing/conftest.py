"""Clients of the embedded S3 endpoint that several test files share."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config

from dataplane_testing.s3 import Limits, S3Endpoint


@pytest.fixture
def endpoint() -> Iterator[S3Endpoint]:
    """An endpoint in this process that wants signatures."""
    with S3Endpoint(in_process=True) as running:
        yield running


@pytest.fixture
def open_endpoint() -> Iterator[S3Endpoint]:
    """An endpoint in this process that lets anyone in, with short timeouts."""
    limits = Limits(idle_s=5, head_s=0.3, body_s=0.3, send_s=2)
    with S3Endpoint(in_process=True, anonymous=True, limits=limits) as running:
        yield running


@pytest.fixture
def boto_client() -> Iterator[Callable[..., Any]]:
    """Make boto3 clients that are closed at the end and never retry."""
    with contextlib.ExitStack() as stack:

        def make(endpoint: S3Endpoint, **config: Any) -> Any:
            client = boto3.client(
                "s3",
                endpoint_url=endpoint.url,
                aws_access_key_id=config.pop("access_key", endpoint.access_key),
                aws_secret_access_key=config.pop("secret_key", endpoint.secret_key),
                region_name="us-east-1",
                config=Config(
                    s3={"addressing_style": "path"},
                    retries={"total_max_attempts": config.pop("attempts", 1)},
                    connect_timeout=5,
                    read_timeout=10,
                    **config,
                ),
            )
            stack.callback(client.close)
            return client

        yield make


class RawConnection:
    """A socket that speaks just enough HTTP to look at answers byte by byte."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.pending = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def get(self, target: str, *headers: str) -> tuple[int, dict[str, str], bytes]:
        lines = "".join(f"{line}\r\n" for line in headers)
        self.send(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode())
        return self.answer()

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Read one answer with its declared length; the body is short if the connection ends."""
        status, headers = self.answer_head()
        return status, headers, self.body(int(headers.get("content-length", "0")))

    def answer_head(self) -> tuple[int, dict[str, str]]:
        while b"\r\n\r\n" not in self.pending:
            more = self.sock.recv(65536)
            if not more:
                raise ConnectionError("closed before an answer")
            self.pending += more
        head, _, self.pending = self.pending.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        return int(first.split(" ")[1]), headers

    def body(self, size: int) -> bytes:
        while len(self.pending) < size:
            more = self.sock.recv(1 << 20)
            if not more:
                break
            self.pending += more
        body, self.pending = self.pending[:size], self.pending[size:]
        return body

    def at_end(self) -> bool:
        """Whether the server has closed the connection in good order."""
        return self.pending == b"" and self.sock.recv(1) == b""

    def close(self) -> None:
        self.sock.close()


@pytest.fixture
def connect() -> Iterator[Callable[[S3Endpoint], RawConnection]]:
    """Open raw connections that are closed at the end."""
    with contextlib.ExitStack() as stack:

        def open_connection(endpoint: S3Endpoint) -> RawConnection:
            connection = RawConnection(endpoint.port)
            stack.callback(connection.close)
            return connection

        yield open_connection
