"""`_native.receive`: what Python sees of a socket's end, its pauses and its failures."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from dataplane import _native


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("timeout_s", [None, 5.0])
def test_a_buffer_is_filled(pair, timeout_s) -> None:
    """Whether the socket blocks or not, as Python's time limit makes it."""
    ours, theirs = pair
    ours.settimeout(timeout_s)
    content = bytes(range(256)) * 5000
    sender = threading.Thread(target=theirs.sendall, args=(content,))
    sender.start()
    got = bytearray(len(content))
    assert _native.receive(ours.fileno(), memoryview(got)[:1000], pause_s=5) == 1000
    assert _native.receive(ours.fileno(), memoryview(got)[1000:], pause_s=5) == len(content) - 1000
    sender.join()
    assert got == content
    assert ours.gettimeout() == timeout_s


def test_an_end_says_how_far_it_got(pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"abc")
    theirs.close()
    got = bytearray(10)
    assert _native.receive(ours.fileno(), got, pause_s=5) == 3
    assert _native.receive(ours.fileno(), got, pause_s=5) == 0
    assert bytes(got) == b"abc" + bytes(7)


def test_a_pause_and_a_failure_are_errors(pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"abc")
    with pytest.raises(TimeoutError):
        _native.receive(ours.fileno(), bytearray(4), pause_s=0.01)
    with pytest.raises(OSError, match="Bad file descriptor"):
        _native.receive(-1, bytearray(4), pause_s=0.01)
    with pytest.raises(ValueError, match="must not be negative"):
        _native.receive(ours.fileno(), bytearray(4), pause_s=-1)
    with pytest.raises(ValueError, match="must not be negative"):
        _native.receive(ours.fileno(), bytearray(4), pause_s=float("nan"))
    with pytest.raises(BufferError):
        _native.receive(ours.fileno(), b"read-only", pause_s=1)
    assert _native.receive(ours.fileno(), bytearray(), pause_s=float("inf")) == 0
