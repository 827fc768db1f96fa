"""Ranges of one object, as a server of HTTP answers them and as a test reads them."""

from __future__ import annotations

from dataplane.stores import Store, StoreConfig
from tests.stores.fakes import Answer, Request

__all__ = ["BODY", "ONCE", "good", "raw", "stream"]

BODY = bytes(range(256)) * 8192
ONCE = StoreConfig(max_attempts=1, timeout_s=10.0, hedge=False)


def good(request: Request, *, keep: bool = True) -> Answer:
    first, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
    start, stop = int(first), min(int(last) + 1, len(BODY))
    headers = {"etag": '"v1"', "content-range": f"bytes {start}-{stop - 1}/{len(BODY)}"}
    return Answer(206, headers, BODY[start:stop], keep=keep)


def raw(answer: Answer, head: str) -> Answer:
    answer.raw = head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + answer.body
    return answer


def stream(store: Store, start: int = 0, stop: int = len(BODY), piece_bytes: int = 1 << 16):
    pieces = store.stream_range("k", start, stop, piece_bytes=piece_bytes, if_match='"v1"')
    return b"".join(map(bytes, pieces))
