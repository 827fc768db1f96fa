"""Conformance suite of streams of bytes: a part of `conformance.py`."""

from __future__ import annotations

from typing import ClassVar

import pytest

from dataplane.errors import NotFound, ObjectChanged, StoreError
from dataplane.stores import Store

__all__ = ["PATTERN", "StreamConformance"]

PATTERN = bytes(range(251)) * 41


class StreamConformance:
    """The contract of `Store.stream_range`; `StoreConformance` inherits it, and has the fixture."""

    large_bytes: ClassVar[int] = 9 << 20
    """Size of an object that goes up in parts (parts are of 8 MiB)."""

    @pytest.mark.parametrize(
        ("start", "stop"),
        [(0, 1), (0, len(PATTERN)), (250, 4097), (7, 7)],
    )
    def test_a_stream_is_exact(self, store: Store, start: int, stop: int) -> None:
        info = store.put("k", PATTERN)
        pieces = [bytes(piece) for piece in store.stream_range("k", start, stop, piece_bytes=1024)]
        assert b"".join(pieces) == PATTERN[start:stop]
        assert all(pieces)
        again = store.stream_range("k", start, stop, piece_bytes=1024, if_match=info.etag)
        assert b"".join(map(bytes, again)) == PATTERN[start:stop]

    def test_a_long_stream_comes_in_pieces_and_may_be_given_up(self, store: Store) -> None:
        content = PATTERN * (self.large_bytes // len(PATTERN))
        info, size = store.put("large", content), len(content)
        pieces = [
            bytes(piece) for piece in store.stream_range("large", 3, size - 5, piece_bytes=1 << 20)
        ]
        assert b"".join(pieces) == content[3:-5]
        assert {len(piece) for piece in pieces[:-1]} == {1 << 20}
        for _ in range(3):
            stream = store.stream_range("large", 0, size, piece_bytes=1000, if_match=info.etag)
            first = bytes(next(stream))
            stream.close()
            assert first == content[:1000]
        assert bytes(store.get_range("large", 5, 9)) == content[5:9]

    def test_a_stream_across_the_end_is_an_error(self, store: Store) -> None:
        store.put("k", b"12345")
        with pytest.raises(StoreError):
            list(store.stream_range("k", 3, 6, piece_bytes=1024))

    def test_a_stream_of_a_missing_or_replaced_object_is_an_error(self, store: Store) -> None:
        with pytest.raises(NotFound):
            list(store.stream_range("missing", 0, 10, piece_bytes=1024))
        old = store.put("k", b"first version")
        store.put("k", b"second version!")
        with pytest.raises(ObjectChanged):
            list(store.stream_range("k", 0, 5, piece_bytes=1024, if_match=old.etag))
