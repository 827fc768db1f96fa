"""Delivery of responses: heads and bodies, as fast as the kernel can, or with a plan's fault.

A body from a file goes out with `sendfile`: no byte of it passes through Python (over TLS it is
read into memory, and encrypted from there). Small ones are read and sent together with their head,
one system call fewer. A plan with a bandwidth sends in small pieces along a schedule; one with a
cut stops there and resets, closes or pauses.

A `Delivery` belongs to the thread of its connection. Pauses end early when the endpoint stops.
"""

from __future__ import annotations

import fcntl
import os
import socket
import ssl
import struct
import termios
import threading
import time

from dataplane_testing.s3.exchange import Response
from dataplane_testing.s3.faults import Plan
from dataplane_testing.s3.http import response_head

__all__ = ["ConnectionBroken", "Delivery"]

# Up to here one copy through user space costs less than a second system call.
_INLINE_BYTES = 32 << 10
_SENDFILE_BYTES = 1 << 30
_ENCRYPT_BYTES = 1 << 20
_PACE_S = 0.005
_PACE_LEAST_BYTES = 4 << 10
_DRAIN_S = 2.0


class ConnectionBroken(Exception):
    """Deliberate end of the connection: a planned fault, or the endpoint stops."""


class Delivery:
    """A sender of responses on one connection.

    Args:
        sock: blocking socket with a send timeout of the kernel.
        stopping: event that is set when the endpoint stops.
    """

    def __init__(self, sock: socket.socket, stopping: threading.Event) -> None:
        self._sock = sock
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self._memory = bytearray(0)  # buffer to encrypt from
        self._stopping = stopping
        self._free_s = 0.0  # when the emulated line is free for the next byte
        self.bytes_sent = 0
        """Bytes of the current response's body handed to the kernel."""

    def wait(self, seconds: float) -> None:
        """Pause.

        Raises:
            ConnectionBroken: the endpoint stops.
        """
        if seconds > 0 and self._stopping.wait(seconds):
            raise ConnectionBroken

    def reset(self) -> None:
        """End the connection with a reset, after the client has got the bytes sent.

        Raises:
            ConnectionBroken: always.
        """
        self._drain()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise ConnectionBroken

    def send(
        self, response: Response, plan: Plan, request_id: str, *, head_only: bool, close: bool
    ) -> None:
        """Send a response.

        Raises:
            ConnectionBroken: the plan, or the endpoint's stop, ended the connection.
            OSError: the client went away or did not read.
        """
        self.bytes_sent = 0
        length = None if response.bodiless else response.length
        head = response_head(response.status, response.headers, length, request_id, close=close)
        if head_only or not length:
            self._sock.sendall(head)
            return
        cut = plan.cut_at(length) if plan.kind in {"reset_body", "truncate", "stall"} else length
        if plan.bandwidth_bytes_per_s is None and cut == length and length <= _INLINE_BYTES:
            self._sock.sendall(head + self._inline(response))
            self.bytes_sent = length
            return
        self._sock.sendall(head, 0 if self._is_tls else socket.MSG_MORE)
        self._send_span(response, 0, cut, plan.bandwidth_bytes_per_s)
        if plan.kind == "stall":
            self._push()
            self.wait(plan.stall_s)
            self._send_span(response, cut, length, plan.bandwidth_bytes_per_s)
        elif plan.kind == "reset_body":
            self.reset()
        elif plan.kind == "truncate":
            raise ConnectionBroken

    def _inline(self, response: Response) -> bytes:
        if response.fd < 0:
            return response.body
        data = os.pread(response.fd, response.length, response.start)
        assert len(data) == response.length, "a version's data file never changes"
        return data

    def _send_span(self, response: Response, start: int, stop: int, rate: float | None) -> None:
        """Send bytes `[start, stop)` of the body, along the line's schedule if it has a rate."""
        piece = _SENDFILE_BYTES
        if rate is not None:
            piece = max(_PACE_LEAST_BYTES, int(rate * _PACE_S))
            self._free_s = max(self._free_s, time.monotonic())
        while start < stop:
            count = min(piece, stop - start)
            if response.fd < 0:
                self._sock.sendall(response.body[start : start + count])
                sent = count
            else:
                sent = self._send_file(response.fd, response.start + start, count)
                if sent == 0:
                    raise ConnectionBroken
            start += sent
            self.bytes_sent += sent
            if rate is not None:
                self._free_s += sent / rate
                self._push()
                self.wait(self._free_s - time.monotonic())

    def _send_file(self, fd: int, start: int, count: int) -> int:
        """Send the beginning of a range of a file; return its length."""
        if not self._is_tls:
            return os.sendfile(self._sock.fileno(), fd, start, count)
        if not self._memory:
            self._memory = bytearray(_ENCRYPT_BYTES)
        piece = memoryview(self._memory)[: os.preadv(fd, [memoryview(self._memory)[:count]], start)]
        self._sock.sendall(piece)
        return len(piece)

    def _push(self) -> None:
        """Send the bytes that the kernel holds back for a fuller packet."""
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _drain(self) -> None:
        """Wait until the client's kernel has the bytes sent: a reset would throw them away."""
        self._push()
        deadline_s = time.monotonic() + _DRAIN_S
        while time.monotonic() < deadline_s:
            queued = fcntl.ioctl(self._sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
            if struct.unpack("i", queued)[0] == 0:
                return
            self.wait(0.001)
