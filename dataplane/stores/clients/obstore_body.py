"""The body of a response of the client library, copied into memory of the caller's choice.

The client gets its own memory back at once, and receives into it again. One instance per response,
used by one thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dataplane.stores.base import Buffer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from obstore import GetResult

__all__ = ["ClientBody"]

_CHUNK_BYTES = 256 << 10
"""Least bytes that the client hands out. It receives up to 400 KiB at a time; asked for more, it
would put them together and copy once more."""


class ClientBody:
    """Reader of a response of obstore, from its beginning to its end."""

    def __init__(self, result: GetResult) -> None:
        self._chunks: Iterator[Buffer] = iter(result.stream(min_chunk_size=_CHUNK_BYTES))
        self._left: npt.NDArray[np.uint8] = np.empty(0, np.uint8)

    def read_into(self, memory: memoryview) -> int:
        """Fill `memory` with the next bytes; return how many came before the end.

        Raises:
            BaseError: the client's, when the connection breaks.
        """
        into, filled = np.frombuffer(memory, np.uint8), 0
        while filled < len(into):
            if not len(self._left):
                chunk = next(self._chunks, None)
                if chunk is None:
                    break
                self._left = np.frombuffer(chunk, np.uint8)
            count = min(len(self._left), len(into) - filled)
            np.copyto(into[filled : filled + count], self._left[:count])
            self._left = self._left[count:]
            filled += count
        return filled

    def close(self) -> None:
        """Give up the rest."""
        self._chunks = iter(())
        self._left = np.empty(0, np.uint8)
