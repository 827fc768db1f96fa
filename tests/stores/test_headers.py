"""Heads of responses: what is understood, and what is left to a client that knows more."""

from __future__ import annotations

import pytest

from dataplane.stores.http.failures import UnsupportedResponse
from dataplane.stores.http.headers import MAX_HEAD_BYTES, parse_head, receive_head

_GOOD = b'HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\nETag: "\xe4"\r\n\r\n'


def _pieces(content: bytes, size: int):
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    return lambda most: pieces.pop(0) if pieces else b""


@pytest.mark.parametrize("size", [1, 7, len(_GOOD), len(_GOOD) + 3])
def test_a_head_is_found_whatever_the_pieces(size: int) -> None:
    head, rest = receive_head(_pieces(_GOOD + b"body", size))
    assert head == _GOOD
    assert b"body".startswith(rest)
    assert parse_head(head) == (206, {"content-length": "5", "etag": '"ä"'}, False)


@pytest.mark.parametrize("length", range(len(_GOOD)))
def test_every_shorter_head_is_a_broken_connection(length: int) -> None:
    with pytest.raises(OSError, match=r"no response|ends in its head") as caught:
        receive_head(_pieces(_GOOD[:length], 10))
    assert isinstance(caught.value, ConnectionResetError) == (length == 0)


def test_a_head_without_an_end_is_given_up() -> None:
    with pytest.raises(UnsupportedResponse, match="a long head"):
        receive_head(lambda most: b"x" * most)
    filler = b"a: " + b"x" * (MAX_HEAD_BYTES - 100)
    head, _ = receive_head(_pieces(b"HTTP/1.1 200 OK\r\n" + filler + b"\r\n\r\n", 5000))
    assert parse_head(head)[0] == 200


@pytest.mark.parametrize(
    ("line", "is_last"),
    [("connection: close", True), ("Connection: Keep-Alive", False), ("x: close", False)],
)
def test_the_wish_to_close_is_read(line: str, is_last: bool) -> None:
    head = f"HTTP/1.1 206 OK\r\ncontent-length: 5\r\n{line}\r\n\r\n".encode()
    assert parse_head(head)[2] == is_last


@pytest.mark.parametrize(
    "head",
    [
        "HTTP/1.0 206 OK",
        "HTTP/2 206 OK",
        "HTTP/1.1 100 Continue",
        "HTTP/1.1 102 Processing",
        "HTTP/1.1 600 Odd",
        "HTTP/1.1 2x6 OK",
        "HTTP/1.1",
        "SSH-2.0-server",
        "",
        "HTTP/1.1 206 OK\r\na: b\r\n folded: yes",
        "HTTP/1.1 206 OK\r\na: b\r\n\tfolded: yes",
        "HTTP/1.1 206 OK\r\na: b\rc: d",
        "HTTP/1.1 206 OK\r\na: b\nc: d",
        "HTTP/1.1 206 OK\r\nno header",
        "HTTP/1.1 206 OK\r\n: nameless",
        "HTTP/1.1 206 OK\r\nname : spaced",
        "HTTP/1.1 206 OK\r\nFrom somebody",
        "HTTP/1.1 206 OK\r\ncontent-length: 5\r\nContent-Length: 5",
        "HTTP/1.1 206 OK" + "\r\na: b" * 200,
    ],
)
def test_what_may_be_read_in_several_ways_is_refused(head: str) -> None:
    with pytest.raises(UnsupportedResponse):
        parse_head(head.encode() + b"\r\n\r\n")
